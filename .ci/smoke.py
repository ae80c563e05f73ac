"Run by .ci/wheel.py inside an environment that holds the installed wheel alone"
import tempfile
from pathlib import Path
import fastai, fastcore, torch, manga_colorize
from manga_colorize.all import Colorizer, Pix2Pix, UnetGenerator, World, blur_cue, sketchify

print(f'manga_colorize {manga_colorize.__version__} from {Path(manga_colorize.__file__).parent}')
print(f'fastai {fastai.__version__}, fastcore {fastcore.__version__}, torch {torch.__version__}')
color = World(seed=0).illustration(7, size=256).color
model = Pix2Pix(UnetGenerator(4, ngf=8, n_down=6))
with tempfile.TemporaryDirectory() as d:
    Colorizer(model, model.config).save(Path(d)/'model')
    fake = Colorizer.load(Path(d)/'model')(sketchify(color), blur_cue(color))
assert fake.size==(256,256), fake.size
print('coloured one sketch:', fake)

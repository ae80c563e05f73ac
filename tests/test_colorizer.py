"One object for any picture and size; a folder that is refused whenever it is not exactly what was saved"
import hashlib,io,json,pickle
from pathlib import Path

import numpy as np,pytest,safetensors.torch as st,torch
from PIL import Image
from children import program
from fixtures import same
from torch import nn

from manga_colorize.core import over_white,to_tensor
from manga_colorize.world.artist import World
from manga_colorize.colorizer.colorizer import Colorizer
from manga_colorize.methods import Method,methods
from manga_colorize.commands.colorize import manga_colorize
from manga_colorize.colorizer.pretrained import embedded_folder
from manga_colorize.colorizer.inputs import fit_cue,mirror_pad,read_cue,soften_cue

class Tiny(nn.Module):
    "Ink over cue, with the parts that make evaluation differ from training"
    stride = 16
    def __init__(self, nf=4):
        super().__init__()
        torch.manual_seed(0)
        self.config = dict(arch='tiny', nf=nf)
        self.net = nn.Sequential(nn.Conv2d(4,nf,3,padding=1), nn.BatchNorm2d(nf), nn.Dropout(.5), nn.Conv2d(nf,3,1), nn.Tanh())
    def forward(self, sketch, cue):
        assert sketch.shape[-2]%16==0 and sketch.shape[-1]%16==0, 'not padded'
        return self.net(torch.cat([sketch,over_white(cue)],1))

class Plain(Tiny):
    "Gives the cue over white back: every pixel can be followed"
    def forward(self, sketch, cue): return over_white(cue)+0*sketch

@pytest.fixture(autouse=True)
def tiny_arch(monkeypatch): monkeypatch.setitem(methods, 'tiny', Method('tiny', 'Tiny', '', ('sketch','cue'), print, Tiny))

@pytest.fixture
def paint(): return Colorizer(Tiny())

def sketch(h=40, w=50, seed=0): return (np.random.default_rng(seed).random((h,w))>.1).astype(np.uint8)*255
def cue(h=40, w=50, seed=1): return np.random.default_rng(seed).integers(0, 256, (h,w,4), dtype=np.uint8)

@pytest.mark.parametrize('size', [(1,1),(1,37),(16,16),(15,17),(33,64),(200,3)], ids=str)
def test_any_size(paint, size): assert paint(sketch(*size), cue(*size)).size==size[::-1]

def test_every_form_of_sketch_gives_one_page(paint, tmp_path):
    s,c = sketch(),cue(); page = paint(s,c).tobytes()
    Image.fromarray(s).save(tmp_path/'grey.png'); Image.fromarray(s).convert('1').save(tmp_path/'bit.png')
    alpha = np.zeros((*s.shape,4), np.uint8); alpha[...,3] = 255-s; Image.fromarray(alpha).save(tmp_path/'alpha.png')
    Image.fromarray(s).convert('P').save(tmp_path/'palette.gif')
    forms = [*tmp_path.iterdir(), *map(str, tmp_path.iterdir()), s>0, np.repeat(s[...,None],3,2), s[...,None], alpha, to_tensor(s), to_tensor(s).half(),
             to_tensor(s).expand(3,-1,-1), Image.fromarray(s), Image.fromarray(alpha), Image.fromarray(s).convert('LA'),
             Image.fromarray(s).convert('CMYK').convert('RGB')]
    for form in forms: assert same(paint(form,c), page), form

def test_every_form_of_cue_gives_one_page(paint, tmp_path):
    s,c = sketch(),cue(); page = paint(s,c).tobytes(); Image.fromarray(c).save(tmp_path/'cue.png')
    for form in (tmp_path/'cue.png', str(tmp_path/'cue.png'), Image.fromarray(c), to_tensor(c)): assert same(paint(s,form), page), form
    opaque = c.copy(); opaque[...,3] = 255
    for form in (c[...,:3], Image.fromarray(c[...,:3]), to_tensor(c[...,:3])): assert same(paint(s,form), paint(s,opaque)), form

@pytest.mark.parametrize('bad', [
    np.zeros((8,8)), np.zeros((8,8,2),np.uint8), np.zeros((2,8,8,3),np.uint8), np.zeros(8,np.uint8), np.zeros((0,8),np.uint8), np.full((8,8),np.nan),
    torch.full((1,8,8),torch.nan), torch.full((1,8,8),torch.inf), torch.zeros(2,8,8), torch.zeros(8,8), torch.zeros(1,8,8,dtype=torch.uint8),
    torch.full((1,8,8),255.), torch.zeros(2,3,8,8), torch.zeros(1,1,0,8), torch.full((1,1,8,8),torch.nan)],
    ids=lambda x: f'{type(x).__name__}-{tuple(x.shape)}-{x.dtype}')
def test_bad_sketches_are_refused(paint, bad):
    with pytest.raises(ValueError, match='expected'): paint(bad)

@pytest.mark.parametrize('bad', [
    np.zeros((8,8,4)), np.zeros((8,8,5),np.uint8), torch.full((4,8,8),torch.nan), torch.full((4,8,8),-1.), torch.full((4,8,8),7.), torch.zeros(5,8,8),
    np.zeros((0,8,4),np.uint8)], ids=lambda x: f'{type(x).__name__}-{tuple(x.shape)}')
def test_bad_cues_are_refused(paint, bad):
    with pytest.raises(ValueError, match='expected'): paint(sketch(8,8), bad)

def test_a_batch_equals_its_pictures(paint):
    s,c = torch.stack([to_tensor(sketch(seed=i)) for i in range(3)]),torch.stack([to_tensor(cue(seed=i)) for i in range(3)])
    fakes = paint(s,c)
    assert fakes.shape==(3,3,40,50) and not fakes.is_inference() and fakes.abs().max()<=1
    for i in range(3): assert same(paint(s[i],c[i]), ((fakes[i]+1)*127.5).round().byte().permute(1,2,0).numpy())
    with pytest.raises(ValueError, match='expected cues'): paint(s,c[:2])

def test_paints_the_same_again_even_after_training_mode(paint):
    s,c = sketch(),cue(); page = paint(s,c).tobytes(); state = {k:v.clone() for k,v in paint.model.state_dict().items()}
    paint.model.train()
    assert same(paint(s,c), page)
    assert all((state[k]==v).all() for k,v in paint.model.state_dict().items())

def test_inputs_stay_as_they_were(paint):
    s,c = torch.ones(1,1,20,20),torch.rand(1,4,20,20); before = c.clone()
    paint(s,c)
    assert (s==1).all() and (c==before).all()

def test_no_cue_is_a_transparent_cue(paint):
    clear = cue(); clear[...,3] = 0
    assert same(paint(sketch()), paint(sketch(),clear))

@pytest.mark.parametrize('big', [(64,64),(67,91),(500,300)], ids=str)
@pytest.mark.parametrize('small', [(16,16),(7,33)], ids=str)
def test_no_point_of_a_cue_is_lost(big, small):
    for seed in range(5):
        rng = np.random.default_rng(seed); y,x = rng.integers(0,big[0]),rng.integers(0,big[1])
        c = torch.full((1,4,*big),.3); c[:,3] = 0; c[0,:,y,x] = torch.tensor([1.,-1.,.5,1.])
        f = fit_cue(c,small); on = f[0,3]>0
        assert on.any() and (f[0,3][on]==1).all()
        assert torch.allclose(f[0,:3,on], torch.tensor([[1.],[-1.],[.5]]), atol=1e-5)

def test_a_grown_cue_repeats_its_pixels():
    c = torch.rand(2,4,5,7)
    assert torch.allclose(fit_cue(c,(10,21)), c.repeat_interleave(2,2).repeat_interleave(3,3))
    assert fit_cue(c,(5,7)) is c
    assert fit_cue(c,(3,21)).shape==(2,4,3,21)

def test_colours_land_where_the_cue_has_them():
    "Through padding, cropping and reading, nothing moves"
    c = cue(37,41); c[...,3] = 255
    assert np.array_equal(np.array(Colorizer(Plain())(sketch(37,41),c)), c[...,:3])

def test_softened_colours_of_a_whole_picture_are_the_training_cue():
    from manga_colorize.cues.blur import blur_cue
    color = np.random.default_rng(0).integers(0, 256, (8,6,3), dtype=np.uint8).repeat(16,0).repeat(16,1)
    assert (soften_cue(read_cue(color)[None])-read_cue(blur_cue(color))[None]).abs().max()<=1.01/127.5

def test_softened_strokes_stay_in_range_and_spread():
    for seed in range(3):
        strokes = torch.rand(2,4,70,90, generator=torch.Generator().manual_seed(seed))*2-1; strokes[:,3] = (strokes[:,3]>.97).float()
        soft = soften_cue(strokes)
        assert soft.isfinite().all() and soft[:,:3].abs().max()<=1 and (soft[:,3]==1).all()
    red = torch.zeros(1,4,256,256); red[0,:,100:156,100:156] = torch.tensor([1.,-1,-1,1])[:,None,None]
    soft = soften_cue(red)[0]
    assert (soft[:3,128,128]-torch.tensor([1.,-1,-1])).abs().max()<.05 and soft[:3,0,0].min()>.99
    assert (soften_cue(torch.zeros(1,4,9,9))[:,:3]==1).all()

def test_strokes_are_softened_where_the_model_learned_from_blurred_cues():
    strokes = np.zeros((64,64,4), np.uint8); strokes[30:34,30:34] = (255,0,0,255); s = sketch(64,64); full = cue(64,64); full[...,3] = 255
    blur,other = Colorizer(Plain(), dict(protocol=dict(cue='blur',sigma=20))),Colorizer(Plain())
    page = np.array(blur(s,strokes)); assert page[26,26,0]>page[26,26,1]+50
    assert np.array_equal(np.array(other(s,strokes)), np.array(blur(s,strokes,soften=False))) and (np.array(other(s,strokes))[26,26]==255).all()
    assert np.array_equal(np.array(other(s,strokes,soften=True)), page)
    assert np.array_equal(np.array(blur(s,full)), full[...,:3])  # the protocol's cue passes as it is
    assert (np.array(blur(s,np.zeros_like(strokes)))==255).all()

def test_mirror_pad():
    x = torch.arange(6.).reshape(1,2,3)
    assert torch.equal(mirror_pad(x,4), torch.tensor([[[0,1,2,2],[3,4,5,5],[3,4,5,5],[0,1,2,2]]]).float())
    assert mirror_pad(x,1) is not None and mirror_pad(torch.zeros(1,16,32),16).shape==(1,16,32)

def test_from_learner_copies(tmp_path):
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.learner import Learner
    class Whole(nn.Module):
        "A model beside a discriminator, which must stay behind"
        def __init__(self):
            super().__init__(); self.tiny = Tiny(); self.net = self.tiny.net; self.discriminator = nn.Linear(2,2)
            self.config,self.stride = self.tiny.config,16
        def forward(self, sketch, cue): return self.tiny(sketch,cue)
    data = [(torch.zeros(1,16,16),torch.zeros(4,16,16),torch.zeros(3,16,16))]*2
    learn = Learner(DataLoaders(DataLoader(data,bs=2),DataLoader(data,bs=2)), Whole().train(), loss_func=nn.functional.l1_loss)
    paint = Colorizer.from_learner(learn, seen=12)
    assert paint.config['seen']==12 and not any('discriminator' in k for k in paint.model.state_dict())
    page = paint(sketch(),cue()).tobytes()
    with torch.no_grad(): learn.model.net[0].weight.zero_()
    assert same(paint(sketch(),cue()), page) and learn.model.training

# --- folders

def test_round_trip(paint, tmp_path):
    paint.config['seen'] = 7
    assert sorted(p.name for p in paint.save(tmp_path/'a'/'b').iterdir())==['config.json','model.safetensors']
    again = Colorizer.load(tmp_path/'a'/'b', device='cpu')
    assert same(again(sketch(),cue()), paint(sketch(),cue()))
    assert again.config==paint.config and 'sha256' not in again.config
    again.save(tmp_path/'c')
    for name in ('config.json','model.safetensors'): assert same((tmp_path/'c'/name).read_bytes(), (tmp_path/'a'/'b'/name).read_bytes()), name

def test_saving_channels_last_half_and_over_an_old_model(paint, tmp_path):
    page = paint(sketch(),cue()).tobytes()
    Colorizer(Tiny(nf=8)).save(tmp_path)
    Colorizer(Tiny().to(memory_format=torch.channels_last)).save(tmp_path)
    assert same(Colorizer.load(tmp_path)(sketch(),cue()), page)

def test_a_failed_save_leaves_the_old_model(paint, tmp_path):
    paint.save(tmp_path); before = {p.name:p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(TypeError): Colorizer(Tiny(nf=8), dict(data=object())).save(tmp_path)
    assert all(same(p.read_bytes(), before.pop(p.name)) for p in tmp_path.iterdir()) and not before

def rewrite(folder, weights=None, **config):
    "Change a saved model, with a SHA-256 that fits"
    c = json.loads((folder/'config.json').read_text())
    if weights is not None: (folder/'model.safetensors').write_bytes(weights); c['sha256'] = hashlib.sha256(weights).hexdigest()
    (folder/'config.json').write_text(json.dumps({**c, **config}))

class Evil:
    def __init__(self, path): self.path = path
    def __reduce__(self): return (Path.touch, (self.path,))

@pytest.mark.parametrize('kind', ['pickle','torch','legacy torch'])
def test_a_pickle_is_never_opened(paint, tmp_path, kind):
    paint.save(tmp_path/'m'); f = io.BytesIO(); evil = Evil(tmp_path/'harm')
    if kind=='pickle': pickle.dump(evil, f)
    else: torch.save(evil, f, _use_new_zipfile_serialization=kind=='torch')
    rewrite(tmp_path/'m', f.getvalue())
    with pytest.raises(ValueError, match='pickled'): Colorizer.load(tmp_path/'m')
    assert not (tmp_path/'harm').exists()

@pytest.mark.parametrize('damage', [lambda b: b[:-1], lambda b: b[:20], lambda b: b'', lambda b: b+b'\0', lambda b: b[:-5]+bytes([b[-5]^1])+b[-4:]],
                         ids=['truncated','cut short','empty','longer','one bit'])
def test_damage_is_noticed(paint, tmp_path, damage):
    f = paint.save(tmp_path)/'model.safetensors'; f.write_bytes(damage(f.read_bytes()))
    with pytest.raises(ValueError, match='damaged'): Colorizer.load(tmp_path)

@pytest.mark.parametrize('weights', [b'', b'hello', b'\xff'*200, st.save({'a':torch.zeros(3)}), st.save(Tiny(nf=8).state_dict())],
                         ids=['empty','text','noise','other names','other shapes'])
def test_foreign_weights_are_refused(paint, tmp_path, weights):
    rewrite(paint.save(tmp_path), weights)
    with pytest.raises(ValueError, match='expected'): Colorizer.load(tmp_path)

@pytest.mark.parametrize('config', [dict(format=2), dict(format=None), dict(model=None), dict(model={'arch':'oracle'}), dict(model={}),
                                    dict(model={'arch':['tiny']}),
    dict(model={'arch':'tiny','nf':10**12}), dict(model={'arch':'tiny','depth':3}), dict(model={'arch':'tiny','nf':8}),
    dict(model={'arch':'tiny','nf':4.5}), dict(model={'arch':'tiny','nf':'4'}),
    dict(model={'arch':'tiny','nf':-1}), dict(sha256=None), dict(sha256='0'*64)], ids=str)
def test_foreign_configs_are_refused(paint, tmp_path, config):
    rewrite(paint.save(tmp_path), **config)
    with pytest.raises(ValueError, match='expected'): Colorizer.load(tmp_path)

@pytest.mark.parametrize('text', ['', '{', '[]', '3', '{"format": 1}', 'null', '\x00'])
def test_broken_config_files_are_refused(paint, tmp_path, text):
    (paint.save(tmp_path)/'config.json').write_text(text)
    with pytest.raises(ValueError, match='expected'): Colorizer.load(tmp_path)

def test_no_folder(tmp_path):
    (tmp_path/'latest_net_G.pth').touch()
    for path in (tmp_path/'none', tmp_path, tmp_path/'latest_net_G.pth'):
        with pytest.raises(ValueError, match='expected a folder with config.json'): Colorizer.load(path)

# --- the command

def test_command_has_a_model(tmp_path):
    Image.fromarray(sketch()).save(tmp_path/'a.png')
    code,out,err = program(tmp_path, 'manga-colorize', tmp_path/'a.png', '--out', tmp_path/'out').end()
    assert not code and Image.open(tmp_path/'out'/'a_color.png').size==sketch().shape[::-1], err
    code,out,err = program(tmp_path, 'manga-colorize', tmp_path/'a.png', '--model', tmp_path).end()
    assert code and 'expected a folder with config.json' in err and 'Traceback' not in err

def test_command_colours_files_and_folders(paint, tmp_path, capsys):
    (tmp_path/'in').mkdir(); (tmp_path/'other').mkdir(); paint.save(tmp_path/'m')
    for f in ('in/a.png','in/b.png','other/a.png'): Image.fromarray(sketch()).save(tmp_path/f)
    Image.fromarray(cue()).save(tmp_path/'cue.png')
    manga_colorize([str(tmp_path/'in'),str(tmp_path/'other'/'a.png')], cue=str(tmp_path/'cue.png'), model=str(tmp_path/'m'), out=str(tmp_path/'out'),
                   exact=True)
    assert sorted(p.name for p in (tmp_path/'out').iterdir())==['a_color.png','a_color_2.png','b_color.png']
    assert np.array_equal(np.array(Image.open(tmp_path/'out'/'a_color.png')), np.array(paint(sketch(),cue())))

def test_command_keeps_earlier_pages(paint, tmp_path, capsys):
    paint.save(tmp_path/'m'); Image.fromarray(sketch()).save(tmp_path/'a.png')
    run = lambda **kw: manga_colorize([str(tmp_path/'a.png')], model=str(tmp_path/'m'), out=str(tmp_path/'out'), **kw)
    there = lambda: {p.name:p.stat().st_size for p in (tmp_path/'out').iterdir()}
    run(); (tmp_path/'out'/'a_color.png').write_bytes(b'mine')
    for k in (2,3): run(); assert len(there())==k and f'a_color_{k}.png' in there() and f'a_color_{k}.png' in capsys.readouterr().out
    assert there()['a_color.png']==4
    run(overwrite=True); assert len(there())==3 and there()['a_color.png']>4

def test_command_paints_as_the_object_does(tmp_path):
    "The same strokes, the same page, by the model of the package"
    lines = World(seed=11).illustration(3, size=128).lines; strokes = np.zeros((128,128,4), np.uint8); strokes[40:60,30:90] = 64,176,96,255
    Image.fromarray(lines).save(tmp_path/'a.png'); Image.fromarray(strokes).save(tmp_path/'cue.png')
    manga_colorize([str(tmp_path/'a.png')], cue=str(tmp_path/'cue.png'), out=str(tmp_path/'out'))
    assert np.array_equal(np.array(Image.open(tmp_path/'out'/'a_color.png')), np.array(Colorizer.load(embedded_folder())(lines, strokes)))

def test_command_names_what_failed_and_does_the_rest(paint, tmp_path, capsys):
    paint.save(tmp_path/'m'); (tmp_path/'bad.png').write_bytes(b'x'); Image.fromarray(sketch()).save(tmp_path/'good.png')
    with pytest.raises(SystemExit) as e:
        manga_colorize([str(tmp_path/f) for f in ('bad.png','missing.png','good.png')], model=str(tmp_path/'m'), out=str(tmp_path/'out'))
    err = capsys.readouterr().err
    assert e.value.code==1 and 'bad.png' in err and 'missing.png' in err and (tmp_path/'out'/'good_color.png').exists()

def test_command_sketchifies(paint, tmp_path, capsys):
    from manga_colorize.sketches.sketchify import sketchify
    shaded = np.tile(np.linspace(60,200,64).astype(np.uint8), (64,1)); shaded[20:40,20:40] = 0
    paint.save(tmp_path/'m'); Image.fromarray(shaded).save(tmp_path/'photo.png')
    manga_colorize([str(tmp_path/'photo.png')], model=str(tmp_path/'m'), out=str(tmp_path/'1'))
    assert '--sketchify' in capsys.readouterr().out
    manga_colorize([str(tmp_path/'photo.png')], model=str(tmp_path/'m'), out=str(tmp_path/'2'), sketchify=True)
    assert '--sketchify' not in capsys.readouterr().out
    rgb = np.repeat(shaded[...,None],3,2)
    assert np.array_equal(np.array(Image.open(tmp_path/'2'/'photo_color.png')), np.array(paint(sketchify(rgb))))

def test_command_on_an_empty_folder_says_so(paint, tmp_path):
    paint.save(tmp_path/'model'); (tmp_path/'none').mkdir()
    with pytest.raises(SystemExit, match='expected a folder with pictures'): manga_colorize([tmp_path/'none'], model=tmp_path/'model')

def test_command_colours_pages_by_a_reference(tmp_path):
    from manga_colorize.world.pages import Page # `World` learns to draw pages
    chapter = World(seed=3).chapter(2, size=(420,300)); out = str(tmp_path/'out')
    for name,a in (('first',chapter[0].color),('second',chapter[1].bw),('grey',chapter[0].bw),('flat',np.full((300,300,3),(200,40,40),np.uint8))):
        Image.fromarray(a).save(tmp_path/f'{name}.png')
    pages,files = [str(tmp_path/'second.png')],lambda: {p.name for p in (tmp_path/'out').glob('*')}
    manga_colorize(pages, page=True, out=out); manga_colorize(pages, page=True, reference=str(tmp_path/'first.png'), out=out)
    plain,told = [np.array(Image.open(tmp_path/'out'/f'second_color{k}.png')).astype(int) for k in ('','_2')]
    assert plain.shape==told.shape==(420,300,3) and np.ptp(told,-1).mean()>2*np.ptp(plain,-1).mean()
    for kwargs,match in ((dict(reference=str(tmp_path/'grey.png')),'without colours'), (dict(page=True, exact=True),'--cue to take exactly'),
                         (dict(page=True, cue=str(tmp_path/'first.png')),'got both'), (dict(reference=str(tmp_path/'none.png')),'none.png')):
        with pytest.raises(SystemExit, match=match): manga_colorize(pages, out=out, **kwargs)
    assert files()=={'second_color.png','second_color_2.png'}

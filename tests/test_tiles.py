"Tiles: they cover every page, their shares make one, and neither a number nor an eye finds where they meet"
import subprocess,sys

import numpy as np,pytest,torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from manga_colorize.core import over_white,to_tensor
from manga_colorize.cues.blur import blur_cue,no_cue
from manga_colorize.sketches.sketchify import sketchify
from manga_colorize.world.artist import World
from manga_colorize.pix2pix.networks import Pix2Pix,UnetGenerator
from manga_colorize.colorizer.colorizer import Colorizer
from manga_colorize.cue_unet.network import CueUnet
from manga_colorize.colorizer.pretrained import from_pretrained # `Colorizer` learns the word
from manga_colorize.colorizer.tiles import in_tiles,tile_shares,tile_spans

class Near(nn.Module):
    "Looks `reach` pixels far, on a grid of `stride` pixels, and notes the sizes it was given"
    stride = 8
    def __init__(self, reach=15):
        super().__init__(); torch.manual_seed(0)
        self.config,self.sizes = dict(arch='near'),[]
        self.net = nn.Sequential(nn.Conv2d(4,8,3,stride=2,padding=1), nn.Conv2d(8,8,3,padding=1), nn.ReLU(),
                                 nn.ConvTranspose2d(8,3,4,stride=2,padding=1), nn.Tanh())
    def forward(self, sketch, cue):
        self.sizes.append(tuple(sketch.shape[-2:]))
        return self.net(torch.cat([sketch,over_white(cue)],1))

def page(h, w, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.random((h,w))>.1).astype(np.uint8)*255,rng.integers(0, 256, (h,w,4), dtype=np.uint8)

def gap(a, b): return np.abs(np.asarray(a).astype(int)-np.asarray(b)).max()

@pytest.mark.parametrize('tile,overlap,stride', [(768,128,1),(768,128,32),(768,384,32),(512,0,256),(64,32,1),(1024,256,256),(1,0,1),(2,1,1)])
def test_spans_cover_with_the_overlap_they_promise(tile, overlap, stride):
    for n in (1,2,63,64,65,767,768,769,1200,1500,2049,4200,9999)[:9 if tile<3 else 13]:
        spans = tile_spans(n, tile, overlap, stride)
        assert spans[0][0]==0 and spans[-1][1]==n and all(s%stride==0 and 0<e-s<=tile for s,e in spans)
        assert all(e-s>=overlap and s>p for (p,e),(s,_) in zip(spans,spans[1:])), (n,spans)

def test_tiles_are_as_few_and_as_small_as_will_do():
    assert tile_spans(1200, 768, 128)==[(0,664),(536,1200)]
    for n in range(769, 5000, 37):
        spans = tile_spans(n, 768, 128, 32)
        assert 640*(len(spans)-1)+128<n, 'one tile fewer would do'
        assert sum(e-s for s,e in spans) <= n+(len(spans)-1)*128+32*len(spans)+32

@pytest.mark.parametrize('bad', [(100,64,33,1),(100,64,-1,1),(100,0,0,1),(100,100,32,32),(100,96,30,32),(100,-64,-32,1)], ids=str)
def test_spans_refuse(bad):
    with pytest.raises(ValueError, match='expected a tile'): tile_spans(*bad)

@pytest.mark.parametrize('n,tile,overlap', [(384,160,48),(1200,768,128),(500,64,32),(500,64,0),(129,128,64),(129,128,63),(1000,768,384),(3,2,1)])
def test_shares_make_one_and_edges_count_nothing(n, tile, overlap):
    spans = tile_spans(n, tile, overlap); total = torch.zeros(n)
    shares = tile_shares(spans)
    for w,(s,e) in zip(shares,spans): total[s:e] += w; assert w.min()>=0 and w.isfinite().all()
    assert (total-1).abs().max()<1e-6
    if overlap>=16: assert all((w[-overlap//4+1:]==0).all() for w in shares[:-1]) and all((w[:overlap//4-1]==0).all() for w in shares[1:])

@pytest.mark.parametrize('size', [(600,600),(1,700),(700,3),(333,517),(40,40)], ids=str)
def test_a_network_that_looks_near_paints_the_same_in_tiles(size):
    sketch,cue = page(*size)
    paint = Colorizer(Near()); paint.limit = None
    whole = paint(sketch,cue)
    paint.limit,paint.tile,paint.overlap = 1,160,64
    paint.model.sizes.clear()
    assert gap(paint(sketch,cue), whole)<=2
    assert max(max(s) for s in paint.model.sizes)<=160

def test_off_the_grid_they_would_differ():
    s,c = [to_tensor(x)[None] for x in page(600,600)]; f = Colorizer(Near())._paint
    with torch.inference_mode(): whole,off = f(s,c),in_tiles(f, s, c, tile=159, overlap=63, stride=1)
    assert (whole-off).abs().max()>.1, 'so the stride of the tiles matters'

def test_the_limit_decides():
    paint = Colorizer(Near()); sketch,cue = page(300,300)
    for limit,n in ((None,1),(300*300,1),(300*300-1,9)):
        paint.limit,paint.tile,paint.overlap = limit,160,64
        paint.model.sizes.clear(); paint(sketch,cue); assert len(paint.model.sizes)==n
    assert Colorizer.limit==768*768 and Colorizer(Near()).limit==Colorizer.limit

def test_tiles_fit_any_stride():
    sketch,cue = page(700,300)
    paint = Colorizer(Pix2Pix(UnetGenerator(4, ngf=4, n_down=7))); paint.limit,paint.tile,paint.overlap = 1,200,100
    assert paint(sketch,cue).size==(300,700)

def test_batches_devices_and_forms():
    s,c = [torch.stack([to_tensor(page(200,300,i)[k]) for i in range(2)]) for k in (0,1)]
    paint = Colorizer(Near()); paint.limit = None; whole = paint(s,c); alone = paint(s)
    paint.limit,paint.tile,paint.overlap = 1,128,64
    tiled = paint(s,c)
    assert tiled.shape==(2,3,200,300) and tiled.dtype==torch.float32 and not tiled.is_inference() and (tiled-whole).abs().max()<1e-2
    assert (paint(s)-alone).abs().max()<1e-2 and (paint(s.double(),c[...,::2,::2]).abs().max()<=1)
    assert paint(s,c).equal(tiled), 'the same again'
    with pytest.raises(ValueError, match='in \\[-1, 1\\]'): paint(s*3,c)
    with pytest.raises(ValueError, match='one size'): in_tiles(paint._paint, s, c[...,:100])

def test_a_model_that_fails_says_so():
    class Broken(Near):
        def forward(self, sketch, cue): raise RuntimeError('out of paint')
    paint = Colorizer(Broken()); paint.limit = 1
    with pytest.raises(RuntimeError, match='out of paint'): paint(*page(64,64))

# --- no seam on a network that looks far

def seams(off, axis, spans):
    "The step at each place where a tile begins, ends or fades, beside the median of its neighbours; `off` is what tiles changed"
    step,n = off.diff(dim=2+axis).abs().mean((0,1,3-axis)).numpy(),off.shape[2+axis]
    marks = {m for (_,e),(s,_) in zip(spans,spans[1:]) for m in (s,e,s+(e-s)//4,e-(e-s)//4,(s+e)//2)}
    return [step[m-1]/np.median(np.r_[step[m-9:m-1],step[m:m+8]]) for m in marks]

def untrained(name):
    "A network whose depth counts, made to paint: at first it would leave the page grey, or as the cue has it"
    torch.manual_seed(1)
    net = Pix2Pix(UnetGenerator(4, ngf=8, n_down=6)) if name=='unet' else CueUnet(width=8, depth=6, full=4)
    for m in net.modules():
        if isinstance(m, (nn.Conv2d,nn.ConvTranspose2d)): m.weight.data *= 4 if name=='unet' else 2
    if name!='unet': net.last[-1].weight.data *= 10
    return net

@pytest.mark.parametrize('told', ['blur','nothing'])
@pytest.mark.parametrize('name', ['unet','cue unet'])
def test_no_step_where_tiles_of_a_network_meet(name, told):
    color = World(seed=1).illustration(2, size=640).color
    s,c = to_tensor(sketchify(color))[None],to_tensor(blur_cue(color))[None]
    if told=='nothing': c = no_cue(s)
    paint = Colorizer(untrained(name), dict(protocol=dict(size=640))); paint.limit = None
    whole,hard = paint(s,c),torch.cat([paint(s[...,a:b],c[...,a:b]) for a,b in ((0,320),(320,640))], -1)
    paint.limit,paint.tile,paint.overlap = 1,320,128
    off,spans = paint(s,c)-whole,tile_spans(640, 320, 128, 64)
    assert len(spans)==3 and whole.std()>.05 and off.abs().mean()*127>.05, 'the network looks far, so tiles change it'
    soft = [max(seams(off,axis,spans)) for axis in (0,1)]
    print('steps where tiles meet', soft, 'without fading', seams(hard-whole, 1, [(0,320),(320,640)]))
    assert max(soft)<1.3 and max(seams(hard-whole, 1, [(0,320),(320,640)]))>2

@pytest.mark.parametrize('told', ['blur','nothing'])
def test_no_step_where_tiles_of_the_embedded_model_meet(told):
    color = World(seed=11).illustration(2, size=512).color   # any larger, and a page without a cue is painted small
    s,c = to_tensor(sketchify(color))[None],to_tensor(blur_cue(color))[None]
    if told=='nothing': c = no_cue(s)
    paint = Colorizer.from_pretrained(device='cpu'); stride = paint.model.stride
    paint.limit = None; whole = paint(s,c)
    paint.limit,paint.tile = 1,384; tiled = paint(s,c)
    spans = tile_spans(512, 384, 128, stride); assert len(spans)==2 and not torch.equal(tiled, whole)
    for axis in (0,1): assert max(seams(tiled,axis,spans))<1.25*max(seams(whole,axis,spans))
    print('mean change by tiles, levels', (tiled-whole).abs().mean().item()*127.5)

def test_a_large_page_with_few_strokes_takes_its_colours_from_a_small_copy():
    "Every size and shape; lines stay where they are, at full size; white paper far from any line is no darker than near one"
    paint = Colorizer.from_pretrained(device='cpu')
    for h,w in ((520,700),(1200,530)):
        lines = np.full((h,w), 255, np.uint8); lines[h//2:h//2+4] = 0
        cue = np.zeros((h,w,4), np.uint8); cue[20:80,20:80] = 240,160,160,255
        page = np.asarray(paint(lines, cue)).astype(int)
        assert page.shape==(h,w,3) and page[h//2+1].max()<10 and page[h//2-8].min()>60
    small = np.asarray(paint(lines[:500,:500], cue[:500,:500])); assert small.shape==(500,500,3)

# --- memory

big = '''
import re,resource,sys,numpy as np,torch
from pathlib import Path
from manga_colorize.colorizer.colorizer import Colorizer
from manga_colorize.core import over_white
class Cheap(torch.nn.Module):
    stride,config = 32,dict(arch='cheap')
    def __init__(self): super().__init__(); self.net = torch.nn.Conv2d(4,24,1); self.out = torch.nn.Conv2d(24,3,1)
    def forward(self, s, c): return self.out(self.net(torch.cat([s,over_white(c)],1)))
sketch,cue = np.full((4200,3000),255,np.uint8),np.zeros((4200,3000,4),np.uint8)
cue[100:200,100:200] = 255
assert Colorizer(Cheap())(sketch,cue).size==(3000,4200)
own = Path('/proc/self/status')                                # Linux counts what the parent had in `ru_maxrss`
if own.exists(): print(int(re.search(r'VmHWM:\\s+(\\d+)', own.read_text())[1])/2**20)
else: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**30)
'''

@pytest.mark.skipif(sys.platform=='win32', reason='no resource module on Windows')
def test_a_page_of_3000_x_4200_takes_less_than_2_GB():
    peak = float(subprocess.run([sys.executable,'-W','ignore','-c',big], capture_output=True, text=True, check=True).stdout)
    print(f'{peak:.2f} GB'); assert peak<2

"The colour network against a second implementation, written from the published structure alone; painters as `Colorizer` takes them"
import json

import numpy as np,pytest,torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip('kornia')
from manga_colorize.sketches.sketchify import sketchify
from manga_colorize.lab.gamut import gamut_bins
from manga_colorize.color import join_lab,split_lab
from manga_colorize.lab.network import *
from fixtures import picture

class Twin(nn.Module):
    "The authors' module from a table of its layers: (channels in, out, kernel, stride, dilation, padding), 'n' for the norm"
    blocks = {1:[(1,64,3,1,1,1),(64,64,3,2,1,1),'n'], 2:[(64,128,3,1,1,1),(128,128,3,2,1,1),'n'],
              3:[(128,256,3,1,1,1),(256,256,3,1,1,1),(256,256,3,2,1,1),'n'], 4:[(256,512,3,1,1,1),(512,512,3,1,1,1),(512,512,3,1,1,1),'n'],
              5:[(512,512,3,1,2,2)]*3+['n'], 6:[(512,512,3,1,2,2)]*3+['n'], 7:[(512,512,3,1,1,1)]*3+['n'],
              8:['up',(256,256,3,1,1,1),(256,256,3,1,1,1),'q']}
    def __init__(self):
        super().__init__()
        for k,rows in self.blocks.items():
            layers,nf = [],0
            for row in rows:
                if row=='n': layers.append(nn.BatchNorm2d(nf))
                elif row=='q': layers.append(nn.Conv2d(256, 313, 1))
                elif row=='up': layers += [nn.ConvTranspose2d(512, 256, 4, 2, 1), nn.ReLU()]
                else:
                    ni,nf,ks,stride,dilation,pad = row
                    layers += [nn.Conv2d(ni, nf, ks, stride, pad, dilation), nn.ReLU()]
            setattr(self, f'model{k}', nn.Sequential(*layers))
        self.model_out = nn.Conv2d(313, 2, 1, bias=False)
    def forward(self, light):
        x = (light-50)/100
        for k in self.blocks: x = getattr(self, f'model{k}')(x)
        return 110*F.interpolate(self.model_out(x.softmax(1)), scale_factor=4, mode='bilinear')

@pytest.fixture(scope='module')
def twin():
    torch.manual_seed(0); net = Twin()
    for k,v in net.state_dict().items():
        if v.ndim==1 and v.is_floating_point(): v.copy_(torch.rand_like(v)+.5 if 'var' in k else v+torch.randn_like(v)*.1)
    with torch.no_grad(): net.model_out.weight.copy_(gamut_bins()[torch.arange(313)%len(gamut_bins())].T[:,:,None,None]/110)
    return net

@pytest.fixture(scope='module')
def light(): return 100*torch.rand(2, 1, 64, 96, generator=torch.Generator().manual_seed(1))

@pytest.mark.parametrize('mode', (False, True), ids=('eval','train'))
def test_equals_the_published_network(twin, light, mode):
    net = ColourNet(); net.load_state_dict(from_colorization_eccv16(twin.state_dict()))
    twin.train(mode); net.train(mode)
    with torch.no_grad(): theirs,z = twin(light),net(light)
    torch.testing.assert_close(enlarge((z.softmax(1)[:,:,None]*net.bins[None,:,:,None,None]).sum(1)), theirs, rtol=0, atol=2e-3)
    assert theirs.std()>1e-2

def test_a_painter_takes_the_published_weights(twin, light):
    painter = LabPainter('grey', temperature=100).eval()
    painter.net.load_state_dict(from_colorization_eccv16({f'module.{k}':v for k,v in twin.state_dict().items()}))
    sketch = join_lab(light, torch.zeros(2,2,64,96))[:,:1]; twin.eval()
    with torch.no_grad():
        fake,seen = painter(sketch, torch.zeros(2,4,64,96)),painter.see(sketch, None)
        torch.testing.assert_close(fake, join_lab(seen, twin(seen)), rtol=0, atol=2e-3)

def test_another_checkpoint_is_refused(twin):
    with pytest.raises(ValueError, match='eccv16'): from_colorization_eccv16({k:v for k,v in twin.state_dict().items() if k!='model_out.weight'})

@pytest.mark.parametrize('width', (1, .5, .125, .01))
def test_widths(width):
    net = ColourNet(10, width)
    assert net(torch.rand(1,1,16,24)*100).shape==(1,10,4,6)

@pytest.mark.parametrize('shape', [(1,3,64,64),(1,1,60,64),(1,64,64),(1,1,64,4),(0,1,64,64)], ids=str)
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match='multiples of 8'): ColourNet(10, .1)(torch.zeros(shape))

def test_bins_must_be_as_many_as_answers():
    with pytest.raises(ValueError, match='expected bins'): ColourNet(313, bins=gamut_bins()[:100])

def make(protocol, q=None, **kw):
    torch.manual_seed(0); bins = None if q==2 else gamut_bins()
    return LabPainter(protocol, q or len(bins), 4, bins=bins, **kw).eval()

@pytest.mark.parametrize('protocol', protocols)
@pytest.mark.parametrize('temperature', (0, 38, 100))
def test_pages_are_in_range(protocol, temperature):
    fake = make(protocol, temperature=temperature)(torch.rand(2,1,32,40)*2-1, torch.rand(2,4,32,40))
    assert fake.shape==(2,3,32,40) and fake.abs().max()<=1 and fake.isfinite().all()

def test_grey_keeps_lightness():
    color = torch.stack([torch.from_numpy(picture(i)).permute(2,0,1) for i in range(2)]).float()/127.5-1
    grey = grey_page(color)
    torch.testing.assert_close(split_lab(grey.expand(-1,3,-1,-1))[0], split_lab(color)[0], rtol=0, atol=.4)
    assert (grey_page(picture(0))==((grey[0,0]+1)*127.5).round().byte().numpy()).all()
    assert grey_page(((color+1)*127.5).round().byte()).equal(grey)

def test_only_the_cue_protocol_looks_at_the_cue():
    sketch,cue = torch.rand(1,1,32,32)*2-1,torch.rand(1,4,32,32)
    for p in protocols: assert make(p)(sketch, cue).equal(make(p)(sketch, torch.zeros_like(cue)))==(p!='cue')

def test_where_a_cue_says_nothing_its_colour_does_not_matter():
    cue = torch.rand(1,4,32,32); other = cue.clone(); cue[:,3,:16] = other[:,3,:16] = 0; other[:,:3,:16] = -.3
    assert cue_channels(cue).equal(cue_channels(other))

def test_gradients_reach_all_weights():
    painter = make('cue').train(); z,light = painter(torch.rand(2,1,32,32)*2-1, torch.rand(2,4,32,32), raw=True)
    (z.square().mean()+light.mean()).backward()
    assert all(p.grad is not None and p.grad.abs().sum()>0 for k,p in painter.named_parameters() if not k.endswith('.bias'))

def test_config_is_plain():
    for p in protocols:
        config = make(p).config
        assert json.loads(json.dumps(config))==config
        assert LabPainter(**{k:v for k,v in config.items() if k!='arch'}).config==config

def test_a_painter_that_answers_with_ab():
    painter = make('sketch', q=2); z,light = painter(torch.rand(1,1,32,32)*2-1, None, raw=True)
    assert z.shape==(1,2,8,8) and painter.ab(z).equal(110*z)

@pytest.mark.parametrize('q', (2,313))
def test_a_temperature_is_told_from_0_to_1(q):
    "Only `config` counts it in hundredths"
    painter,page = make('grey', q=q),torch.zeros(1,1,32,32)
    assert painter(page, None, temperature=.38).equal(painter(page, None))
    for bad in (38,-.1):
        with pytest.raises(ValueError, match='expected a temperature'): painter(page, None, temperature=bad)

@pytest.mark.parametrize('kw', [dict(protocol='photo'), dict(protocol=3), dict(protocol=-1), dict(temperature=101), dict(temperature=-1)], ids=str)
def test_bad_painters_are_refused(kw):
    with pytest.raises(ValueError, match='expected a'): LabPainter(**kw)

def test_bfloat16():
    with torch.autocast('cpu', torch.bfloat16): fake = make('cue')(torch.rand(1,1,32,32)*2-1, torch.rand(1,4,32,32))
    assert fake.dtype==torch.float32 and fake.isfinite().all()

"The networks against a second implementation, written from the published structure alone"
import pytest,torch
from torch import nn
from manga_colorize.pix2pix.networks import *
from manga_colorize.pix2pix.import_weights import *
from manga_colorize.training.initialization import *

class Nest(nn.Module):
    "One level of the twin's U: down, the levels inside, up; the bridge is the concatenation at the end"
    def __init__(self, outer, inner, ni=None, inside=None, place='middle', drop=False):
        super().__init__()
        self.outermost = place=='outermost'
        down = [nn.Conv2d(ni or outer, inner, 4, 2, 1, bias=False)]
        up = [nn.ReLU(True), nn.ConvTranspose2d(inner*(1 if place=='innermost' else 2), outer, 4, 2, 1, bias=self.outermost)]
        if not self.outermost: down,up = [nn.LeakyReLU(.2, True)]+down,up+[nn.BatchNorm2d(outer)]
        if place=='middle': down.append(nn.BatchNorm2d(inner))
        if drop: up.append(nn.Dropout(.5))
        if self.outermost: up.append(nn.Tanh())
        self.model = nn.Sequential(*down, *([inside] if inside is not None else []), *up)
    def forward(self, x):
        out = self.model(x)
        return out if self.outermost else torch.cat([x, out], 1)

class TwinUnet(nn.Module):
    def __init__(self, ni, nf, n_down, ngf):
        super().__init__()
        net = Nest(ngf*8, ngf*8, place='innermost')
        for _ in range(n_down-5): net = Nest(ngf*8, ngf*8, inside=net, drop=True)
        for k in (4,2,1): net = Nest(ngf*k, ngf*k*2, inside=net)
        self.model = Nest(nf, ngf, ni=ni, inside=net, place='outermost')
    def forward(self, x): return self.model(x)

class TwinPatch(nn.Module):
    def __init__(self, ni, ndf, n_layers):
        super().__init__()
        layers,last = [nn.Conv2d(ni, ndf, 4, 2, 1), nn.LeakyReLU(.2, True)],ndf
        for n in range(1, n_layers+1):
            wide = ndf*min(2**n, 8)
            layers += [nn.Conv2d(last, wide, 4, 2 if n<n_layers else 1, 1, bias=False), nn.BatchNorm2d(wide), nn.LeakyReLU(.2, True)]
            last = wide
        self.model = nn.Sequential(*layers, nn.Conv2d(last, 1, 4, 1, 1))
    def forward(self, x): return self.model(x)

def shake(model):
    "Weights, biases and running statistics that no other network has"
    for k,v in model.state_dict().items():
        if v.is_floating_point(): v.copy_(torch.rand_like(v)+.5 if 'var' in k else torch.randn_like(v)*.2)
    return model

def same(ours, theirs, x):
    ours.load_state_dict(from_pytorch_pix2pix(theirs.state_dict()))
    for mode in (False, True):
        ours.train(mode), theirs.train(mode)
        torch.manual_seed(1); a = ours(x)
        torch.manual_seed(1); b = theirs(x)
        assert a.std()>1e-3
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)

@pytest.mark.parametrize('n_down,size', [(5,32), (6,64), (7,128), (8,256)])
def test_generator_equals_twin(n_down, size):
    torch.manual_seed(0)
    x = torch.randn(2, 3, size, 2*size)
    same(UnetGenerator(3, ngf=4, n_down=n_down), shake(TwinUnet(3, 3, n_down, 4)), x)

@pytest.mark.parametrize('n_layers', [1,2,3,4])
def test_discriminator_equals_twin(n_layers):
    torch.manual_seed(0)
    same(PatchDiscriminator(6, 4, n_layers), shake(TwinPatch(6, 4, n_layers)), torch.randn(2, 6, 96, 64))

def test_gradients_equal_twin():
    torch.manual_seed(0)
    theirs = shake(TwinUnet(4, 3, 6, 4)); ours = UnetGenerator(4, ngf=4, n_down=6)
    ours.load_state_dict(from_pytorch_pix2pix(theirs.state_dict()))
    x = torch.randn(2, 4, 64, 64)
    for m in (ours, theirs): torch.manual_seed(1); m(x).square().mean().backward()
    want = from_pytorch_pix2pix({k:p.grad for k,p in theirs.named_parameters()})
    for k,p in ours.named_parameters(): torch.testing.assert_close(p.grad, want[k], rtol=1e-4, atol=1e-7)

def test_published_sizes():
    assert n_params(UnetGenerator(3)) == sum(p.numel() for p in TwinUnet(3, 3, 8, 64).parameters()) == 54_413_955
    assert n_params(PatchDiscriminator(6)) == sum(p.numel() for p in TwinPatch(6, 64, 3).parameters()) == 2_768_705

def test_old_and_parallel_checkpoints():
    "DataParallel's prefix, and checkpoints older than `num_batches_tracked`"
    theirs = TwinPatch(6, 4, 3)
    old = {'module.'+k:v for k,v in theirs.state_dict().items() if 'num_batches' not in k}
    PatchDiscriminator(6, 4).load_state_dict(from_pytorch_pix2pix(old))

@pytest.mark.parametrize('keys', [
    ['model.1.weight', 'model.10.conv_block.1.weight'],                              # a ResNet generator
    ['net.0.weight'],                                                                # a pixel discriminator
    ['model.model.0.weight', 'model.model.0.bias', 'model.model.1.model.1.bias'],    # a U-Net with instance norm
    ['downs.0.0.weight'], []])
def test_foreign_checkpoints_are_refused(keys):
    with pytest.raises(ValueError, match='expected a `unet_256`'): from_pytorch_pix2pix({k:torch.zeros(1) for k in keys})

@pytest.mark.parametrize('shape', [(1,3,64,64), (1,4,63,64), (1,4,64,32), (4,64,64)])
def test_bad_sizes_name_the_multiple(shape):
    with pytest.raises(ValueError, match='expected .* multiples of 64, got'): UnetGenerator(4, ngf=2, n_down=6)(torch.zeros(shape))

def test_init():
    torch.manual_seed(0)
    for m in UnetGenerator(4, ngf=32, n_down=6).modules():
        if isinstance(m, (nn.Conv2d,nn.ConvTranspose2d)):
            assert abs(m.weight.std()-.02)<2e-3 and abs(m.weight.mean())<2e-3
            assert m.bias is None or (m.bias==0).all()
        if isinstance(m, nn.BatchNorm2d): assert abs(m.weight.mean()-1)<.02 and (m.bias==0).all()

def test_no_cue_is_white():
    model = Pix2Pix(UnetGenerator(4, ngf=2, n_down=5)).eval()
    sketch,blank,white = torch.randn(1,1,32,32),torch.zeros(1,4,32,32),torch.ones(1,4,32,32)
    assert torch.equal(model(sketch, blank), model(sketch, white))

def test_painting_is_deterministic():
    model = Pix2Pix(UnetGenerator(4, ngf=2, n_down=6)).eval()
    x = torch.randn(1,1,64,64),torch.rand(1,4,64,64)
    assert torch.equal(model(*x), model(*x))

def test_config_rebuilds():
    model = Pix2Pix(UnetGenerator(4, ngf=2, n_down=5))
    assert model.config == dict(arch='pix2pix', ni=4, nf=3, ngf=2, n_down=5) and model.stride == 32
    UnetGenerator(**{k:v for k,v in model.config.items() if k!='arch'}).load_state_dict(model.generator.state_dict())

"Lab: agreement with scikit-image, round trips, the gamut, forms, wrong input"
import os

import numpy as np,pytest,torch
pytest.importorskip('kornia')
from manga_colorize.core import to_image,to_tensor
from manga_colorize.color import gamut_slice,in_gamut,join_lab,split_lab

skcolor = pytest.importorskip('skimage.color')

def lattice(step=15):
    v = torch.arange(0, 256, step)/127.5-1
    return torch.cartesian_prod(v, v, v).T.reshape(1,3,-1,1)
def noise(b=2, h=24, w=32, seed=0): return torch.rand(b, 3, h, w, generator=torch.Generator().manual_seed(seed))*2-1
def last(x): return x.permute(0,2,3,1).double().numpy()

@pytest.mark.parametrize('rgb', (lattice(),noise(),lattice(51)), ids=('lattice','noise','coarse'))
def test_split_is_scikit_images(rgb):
    ours = torch.cat(split_lab(rgb), 1)
    np.testing.assert_allclose(last(ours), skcolor.rgb2lab(last((rgb+1)/2)), atol=1e-3)

@pytest.mark.parametrize('rgb', (lattice(),noise()), ids=('lattice','noise'))
def test_join_is_scikit_images(rgb):
    lab = torch.from_numpy(skcolor.rgb2lab(last((rgb+1)/2))).permute(0,3,1,2)
    ours = join_lab(lab[:,:1].float().clamp(0,100), lab[:,1:].float())
    np.testing.assert_allclose(last(ours), skcolor.lab2rgb(last(lab))*2-1, atol=1e-4)

@pytest.mark.filterwarnings('ignore:.*negative Z values')
def test_clipping_is_scikit_images():
    g = torch.Generator().manual_seed(1)
    light,ab = torch.rand(1,1,40,40, generator=g)*100,torch.rand(1,2,40,40, generator=g)*200-100
    np.testing.assert_allclose(last(join_lab(light, ab)), skcolor.lab2rgb(last(torch.cat([light,ab], 1)))*2-1, atol=1e-4)

@pytest.mark.parametrize('dtype,tol', ((torch.float32,1e-4),(torch.float64,1e-4),(torch.float16,.02)))
def test_round_trip(dtype, tol):
    rgb = noise().to(dtype); light,ab = split_lab(rgb)
    assert light.dtype==ab.dtype==dtype
    torch.testing.assert_close(join_lab(light, ab), rgb, atol=tol, rtol=0)

def test_round_trip_keeps_every_byte():
    a = np.random.default_rng(0).integers(0, 256, (64,64,3), np.uint8)
    np.testing.assert_array_equal(to_image(join_lab(*split_lab(to_tensor(a)[None]))[0]), a)

@pytest.mark.parametrize('shape', [(1,1,1),(3,7,5),(2,1,9)])
def test_shapes(shape):
    b,h,w = shape; light,ab = split_lab(noise(b,h,w))
    assert light.shape==(b,1,h,w) and ab.shape==(b,2,h,w) and join_lab(light, ab).shape==(b,3,h,w)

def test_greys_have_no_colour():
    grey = torch.linspace(-1, 1, 256).view(1,1,1,-1).expand(1,3,1,-1)
    light,ab = split_lab(grey)
    assert ab.abs().max()<.01 and (light.diff()>0).all() and abs(light[...,-1].item()-100)<1e-2 and abs(light[...,0].item())<1e-3

def test_gradient_flows():
    rgb = (noise()*.9).requires_grad_(); light,ab = split_lab(rgb)
    join_lab(light, ab).sum().backward()
    torch.testing.assert_close(rgb.grad, torch.ones_like(rgb), atol=1e-2, rtol=0)

def test_mixed_precision_stays_out():
    rgb = noise(); light,ab = split_lab(rgb)
    with torch.autocast('cpu', torch.bfloat16):
        for ours,exact in zip((*split_lab(rgb),join_lab(light, ab)), (light,ab,rgb)):
            assert ours.dtype==torch.float32; torch.testing.assert_close(ours, exact, atol=1e-4, rtol=0)

def test_gamut():
    assert in_gamut(*split_lab(lattice())).all()
    off = torch.tensor([90.,90]).view(1,2,1,1)
    assert not in_gamut(torch.full((1,1,1,1), 50.), off).any()
    areas = [(gamut_slice(l, 45)<1).any(1).sum().item() for l in (2,50,99)]
    assert areas[1]>10*areas[0] and areas[1]>10*areas[2]

@pytest.mark.parametrize('bad', [noise()[:,:1], noise()[0], noise()*2, noise()*float('nan'), noise().byte(), noise()[:0], noise().numpy(), None, 'a.png',
                                 torch.full((1,3,2,2), float('inf'))], ids=range(10))
def test_split_refuses(bad):
    with pytest.raises(ValueError, match='expected rgb'): split_lab(bad)

@pytest.mark.parametrize('light,ab', [(50,300), (150,0), (-5,0), (float('nan'),0), (50,float('nan'))])
def test_join_refuses_ranges(light, ab):
    with pytest.raises(ValueError, match='expected (light|ab) in .*got'): join_lab(torch.full((1,1,2,2), float(light)), torch.full((1,2,2,2), float(ab)))

@pytest.mark.parametrize('light,ab', [((1,1,2,2),(1,2,2,3)), ((1,1,2,2),(2,2,2,2)), ((1,2,2,2),(1,2,2,2)), ((1,1,2,2),(1,1,2,2)), ((1,2,2),(1,2,2,2))])
def test_join_refuses_shapes(light, ab):
    with pytest.raises(ValueError, match='expected'): join_lab(torch.zeros(light), torch.zeros(ab))

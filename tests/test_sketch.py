"Sketches and cues: agreement with OpenCV, forms, devices, wrong input"
import os
from pathlib import Path

import cv2,numpy as np,pytest,torch
from manga_colorize.core import over_white,to_image,to_tensor
from manga_colorize.cues.blur import blur_cue,cosine_blur,no_cue
from manga_colorize.sketches.sketchify import complexity,sketchify

ART = os.environ.get('MANGA_ART')
FILES = sorted(p for p in Path(ART).rglob('*') if p.suffix.lower() in ('.png','.jpg')) if ART else []
real_art = pytest.mark.skipif(not FILES, reason='MANGA_ART names no folder of real pictures')

def noise(h=48, w=64, seed=0): return np.random.default_rng(seed).integers(0, 256, (h,w,3), np.uint8)
def smooth(h=96, w=80, seed=0): return cv2.GaussianBlur(noise(h,w,seed), (0,0), 3)
def opencv(a, block_size, c):
    return cv2.adaptiveThreshold(cv2.cvtColor(a, cv2.COLOR_RGB2GRAY), 255, cv2.ADAPTIVE_THRESH_GAUSSIAN_C, cv2.THRESH_BINARY, block_size, c)

@pytest.mark.parametrize('block_size', (3,5,7,9,15,31))
@pytest.mark.parametrize('c', (-1,0,1,2,2.5))
@pytest.mark.parametrize('make', (noise,smooth))
def test_batch_sketch_is_opencvs(make, block_size, c):
    a = make()
    theirs = opencv(a, block_size, c)
    np.testing.assert_array_equal(sketchify(a, block_size, c), theirs)
    assert (sketchify(to_tensor(a), block_size, c)==to_tensor(theirs)).float().mean()>=.999

def test_every_grey_is_opencvs():
    "All 2**24 colours would take minutes; a lattice with every value of each channel does it"
    v = np.arange(256, dtype=np.uint8)
    a = np.stack(np.meshgrid(v, v[::3], v[::5], indexing='ij'), -1).reshape(256,-1,3)
    from manga_colorize.sketches import sketchify as sketch
    ours = sketch.grey_levels(torch.from_numpy(a).permute(2,0,1).float())[0].numpy()
    np.testing.assert_array_equal(ours, cv2.cvtColor(a, cv2.COLOR_RGB2GRAY))

@pytest.mark.parametrize('shape', [(1,1), (1,9), (2,3), (7,5), (130,97)])
@pytest.mark.parametrize('sigma', (.5,5,20,300))
def test_batch_cue_is_opencvs(shape, sigma):
    a = noise(*shape)
    theirs = cv2.GaussianBlur(a.astype(np.float64), (0,0), sigma*min(shape)/256).round()
    for ours in (blur_cue(a)[...,:3] if sigma==20 else blur_cue(a, sigma)[...,:3], to_image(blur_cue(to_tensor(a), sigma)[:3])):
        assert abs(ours-theirs).mean()<1

@real_art
@pytest.mark.parametrize('path', FILES, ids=lambda p: f'{p.parent.name}/{p.name}')
def test_real_art(path):
    a = to_image(path); t = to_tensor(a)[None]
    same = (sketchify(t)==to_tensor(opencv(a,7,2))).float().mean().item()
    theirs = cv2.GaussianBlur(a, (0,0), 20*min(a.shape[:2])/256)
    apart = ((blur_cue(t)[0,:3]-to_tensor(theirs)).abs().mean()*127.5).item()
    assert same>=.999 and apart<1, (same,apart)

@pytest.mark.parametrize('f', (sketchify,blur_cue))
def test_batch_equals_singles(f):
    b = torch.stack([to_tensor(smooth(seed=i)) for i in range(3)])
    torch.testing.assert_close(f(b), torch.stack([f(x) for x in b]), atol=1.01/127.5 if f is blur_cue else 0, rtol=0)
    u8 = torch.stack([torch.from_numpy(smooth(seed=i)).permute(2,0,1) for i in range(3)])
    torch.testing.assert_close(f(b), f(u8), atol=0, rtol=0)

@pytest.mark.parametrize('f', (sketchify,blur_cue,no_cue))
def test_form_of_tensors(f):
    for dtype in (torch.float32,torch.bfloat16,torch.float16):
        out = f(torch.zeros(2,3,16,24, dtype=dtype))
        assert out.dtype==torch.float32 and out.shape==(2,1 if f is sketchify else 4,16,24)
        assert out.min()>=-1 and out.max()<=1

def test_layout_and_views_do_not_matter():
    a = smooth(); b = torch.stack([to_tensor(a)]*2)
    for f in (sketchify,blur_cue):
        np.testing.assert_array_equal(f(a[:,::-1]), f(np.ascontiguousarray(a[:,::-1])))
        torch.testing.assert_close(f(b.to(memory_format=torch.channels_last)), f(b), atol=0, rtol=0)

def test_autocast_changes_nothing():
    t = to_tensor(smooth())[None]
    with torch.autocast('cpu', torch.bfloat16): inside = sketchify(t),blur_cue(t)
    for x,y in zip(inside, (sketchify(t),blur_cue(t))): torch.testing.assert_close(x, y, atol=0, rtol=0)

def test_first_call_in_inference_mode_spoils_nothing():
    "The cosines are cached: they must not be inference tensors when a gradient is wanted later"
    x = torch.rand(1,3,33,35)
    with torch.inference_mode(): cosine_blur(x, 3.25)
    x.requires_grad_(); cosine_blur(x, 3.25).sum().backward()
    assert torch.isfinite(x.grad).all()

def test_sigma_follows_the_shorter_side():
    big = smooth(256,512); small = cv2.resize(big, None, fx=.5, fy=.5, interpolation=cv2.INTER_AREA)
    again = cv2.resize(blur_cue(big), small.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert abs(again.astype(int)-blur_cue(small)).mean()<1

def test_complexity():
    assert complexity(np.zeros((3,3), np.uint8))==100 and complexity(np.full((3,3), 255, np.uint8))==0
    s = sketchify(noise())
    assert complexity(to_tensor(s)[None]).shape==(1,)
    assert complexity(to_tensor(s)).item()==pytest.approx(complexity(s), abs=1e-4)

def test_no_cue():
    for shape in ((5,7), np.zeros((5,7,3), np.uint8), np.zeros((5,7), np.uint8)):
        cue = no_cue(shape)
        assert cue.shape==(5,7,4) and (cue[...,3]==0).all() and (over_white(cue)==255).all()

nan = torch.full((1,3,8,8), float('nan'))
@pytest.mark.parametrize('bad', [np.zeros((8,8,4), np.uint8), np.zeros((8,8,3), np.float32), np.zeros((8,8), np.uint8), np.zeros((0,8,3), np.uint8),
    'page.png', None, torch.zeros(8,8), torch.zeros(1,1,8,8), torch.zeros(1,3,0,8), torch.zeros(2,2,3,8,8), torch.zeros(1,3,8,8).long(), nan,
    torch.full((1,3,8,8), 2.)])
@pytest.mark.parametrize('f', (sketchify,blur_cue))
def test_wrong_pictures(f, bad):
    with pytest.raises(ValueError, match='expected'): f(bad)

@pytest.mark.parametrize('n', (-1,0,1,2,4,8,7.5))
def test_wrong_block(n):
    for a in (noise(), to_tensor(noise())):
        with pytest.raises(ValueError, match='odd block size'): sketchify(a, n)

@pytest.mark.parametrize('bad', (torch.zeros(2,3,8,8), np.zeros((8,8,3), np.uint8), np.zeros((8,8)), 'x'))
def test_wrong_sketch(bad):
    with pytest.raises(ValueError, match='expected a sketch'): complexity(bad)

@pytest.mark.skipif(not (torch.cuda.is_available() or torch.backends.mps.is_available()), reason='needs a GPU')
def test_gpu_is_the_cpu():
    dev = 'cuda' if torch.cuda.is_available() else 'mps'
    t = torch.stack([to_tensor(smooth(256,256,seed=i)) for i in range(4)])
    assert (sketchify(t.to(dev)).cpu()==sketchify(t)).float().mean()>=.999
    assert (blur_cue(t.to(dev)).cpu()-blur_cue(t)).abs().mean()*127.5<.1

"Cues with gaps: forms, seeds, laws, calm places, sizes, faults"
import pickle
from functools import partial

import numpy as np,pytest,torch
from manga_colorize.core import over_white,to_tensor
from manga_colorize.cues.points import erase,erased_cue,patch_cue,point_cue,ringed
from manga_colorize.cues.blur import blur_cue,no_cue
from manga_colorize.cues.strokes import mix,mixed_cue,stroke_cue
from manga_colorize.colorizer.inputs import fit_cue

samplers = [point_cue, patch_cue, stroke_cue, erased_cue, mixed_cue]
counted = [point_cue, patch_cue, stroke_cue]
ids = lambda f: getattr(f, '__name__', str(f))

def picture(seed=0, h=256, w=256, n=6):
    "Flat fields with hard borders"
    rng = np.random.default_rng(seed)
    fields = rng.integers(0, 256, (n,n,3), np.uint8)
    return fields[(np.arange(h)*n//h)[:,None],np.arange(w)*n//w]

pictures = [picture(i) for i in range(5)]
batch = torch.stack([to_tensor(p) for p in pictures])

@pytest.mark.parametrize('f', samplers, ids=ids)
def test_forms_agree(f):
    whole = f(batch, seed=3)
    assert whole.shape==(5,4,256,256) and whole.dtype==torch.float32
    assert whole[:,:3].abs().max()<=1 and 0<=whole[:,3].min() and whole[:,3].max()<=1
    bytes_ = torch.from_numpy(np.stack(pictures)).permute(0,3,1,2)
    assert torch.equal(f(bytes_, seed=3), whole)
    for i,p in enumerate(pictures):
        one,alone = f(p, seed=3+i),f(batch[i], seed=3+i)
        assert one.dtype==np.uint8 and one.shape==(256,256,4) and alone.shape==(4,256,256)
        assert (to_tensor(one)-whole[i]).abs().max()<1.1/127.5 and (alone-whole[i]).abs().max()<1.1/127.5

@pytest.mark.parametrize('f', samplers, ids=ids)
def test_a_cue_does_not_depend_on_its_batch(f):
    seeds = [11,5,900,0,2**40]
    whole = f(batch, seed=seeds)
    for order in ([4,0],[2],[3,1,0,2]):
        part = f(batch[order], seed=[seeds[i] for i in order])
        assert (part-whole[order]).abs().max()<1.1/127.5

@pytest.mark.parametrize('f', samplers, ids=ids)
def test_same_seed_same_cue(f):
    assert torch.equal(f(batch, seed=7), f(batch, seed=7)) and not torch.equal(f(batch, seed=7), f(batch, seed=70))
    for seed in (np.int64(7), np.arange(7,12), torch.arange(7,12), range(7,12)): assert torch.equal(f(batch, seed=seed), f(batch, seed=7))
    state = torch.get_rng_state(); f(batch); assert torch.equal(state, torch.get_rng_state())
    again = pickle.loads(pickle.dumps(partial(f, seed=7)))
    assert torch.equal(again(batch), f(batch, seed=7))

@pytest.mark.parametrize('f', samplers, ids=ids)
def test_silence_is_white(f):
    cue = f(batch, seed=range(20,25))
    assert (cue[:,:3].movedim(1,-1)[cue[:,3]==0]==1).all()

@pytest.mark.parametrize('n', (0,1,7,300))
def test_points_are_exactly_n(n):
    cue = point_cue(batch, n)
    assert (cue[:,3].sum((1,2))==4*n).all() and set(cue[:,3].unique().tolist())<={0.,1.}
    cells = cue[:,3].unfold(1,2,2).unfold(2,2,2).sum((-1,-2))
    assert set(cells.unique().tolist())<={0.,4.}                       # whole cells

@pytest.mark.parametrize('f', [patch_cue, stroke_cue], ids=ids)
def test_counts(f):
    assert (f(batch, 0)[:,3]==0).all()
    few,many = [(f(batch, n)[:,3]>0).float().mean((1,2)) for n in (1,30)]
    assert (few>0).all() and (many>5*few).all()

def test_colors_are_those_of_the_place():
    "Patches tell their mean; points tell it within the published shift; strokes within their tint"
    truth = torch.stack([to_tensor(p) for p in [np.full((256,256,3), (200,30,90), np.uint8)]*2])
    for f,within in ((patch_cue,.6),(point_cue,.6),(stroke_cue,40)):
        cue = f(truth, 20); at = cue[:,3:]>0
        assert ((cue[:,:3]-truth).abs()*at).max()*127.5<within
    cue = patch_cue(batch, 20); at = (cue[:,3:]>0)
    assert (((cue[:,:3]-batch).abs().amax(1,keepdim=True)*127.5<30)&at).sum()>.97*at.sum()

@pytest.mark.parametrize('f', [point_cue, patch_cue], ids=ids)
def test_only_calm_places(f):
    "No hint lies on a border of two fields"
    cue = f(batch, 60, seed=range(5))
    grid = torch.from_numpy(np.arange(256)*6//256); near = torch.zeros(256, dtype=torch.bool)
    border = (grid[1:]!=grid[:-1]).nonzero().flatten()
    near[border] = near[border+1] = True
    assert (cue[:,3][:,near].sum()+cue[:,3][:,:,near].sum())<.01*cue[:,3].sum()*2

def test_busy_pictures_get_the_calmest():
    noise = np.random.default_rng(0).integers(0, 256, (256,256,3), np.uint8)
    quiet = noise.copy(); quiet[:,:128] = quiet[:,:128]//2+64          # less busy, but not calm
    for f in counted: assert f(noise, 9)[...,3].any()
    cue = point_cue(quiet, 50, seed=3)
    assert (cue[:,:128,3]>0).sum()>.9*(cue[...,3]>0).sum()

def test_law_of_points():
    n = (point_cue(batch[:1,:,::2,::2].expand(400,-1,-1,-1))[:,3]>0).sum((1,2)).numpy()
    assert .4<(n>0).mean()<.6 and 50<n[n>0].mean()<80 and n.max()<=400

def test_law_of_patches():
    from manga_colorize.cues.points import _patches
    got = [_patches(np.random.default_rng(i), None, 256, 256) for i in range(3000)]
    n = np.array([g[0] for g in got]); side = np.concatenate([g[2] for g in got]); mid = np.concatenate([g[1]+g[2]/2 for g in got[:50]])
    assert abs(n.mean()-7)<.4 and abs((n==0).mean()-.125)<.03
    assert set(np.unique(side))==set(range(1,10)) and abs(mid.mean()-128)<3 and 50<mid.std()<70

@pytest.mark.parametrize('side', (64,128,192,256,512,1024))
def test_points_survive_fitting(side):
    cue = point_cue(batch, 40)
    dots = (cue[:,3].unfold(1,2,2).unfold(2,2,2).sum((-1,-2))==4)       # (B, 128, 128)
    fitted = fit_cue(cue, (side,side))
    assert fitted[:,3].max()==1
    for b in range(5):
        for i,j in dots[b].nonzero().tolist():
            y,x = int((i+.5)*side/128),int((j+.5)*side/128)
            assert fitted[b,3,y,x]==1
            if side>=128: assert torch.equal(fitted[b,:,y,x], cue[b,:,2*i,2*j])

@pytest.mark.parametrize('f', samplers, ids=ids)
@pytest.mark.parametrize('shape', [(1,1),(2,5),(16,16),(40,64),(100,300),(130,131)])
def test_any_size(f, shape):
    a = picture(1, *shape)
    for seed in range(4): assert f(a, seed=seed).shape==(*shape,4)
    if f is point_cue and min(shape)<=128: assert (f(a, 1)[...,3]>0).sum()==1

def test_the_same_cue_at_any_size():
    "A larger picture gets the same hints, scaled"
    for f in (patch_cue,stroke_cue):
        small,large = f(picture(0,128,128), 12)[...,3],f(picture(0,512,512), 12)[...,3]
        assert .3<(small>0).mean()/(large>0).mean()<3

def test_erase():
    fog = blur_cue(batch)
    cue = erase(fog, seed=2)
    gone = cue[:,3]==0
    assert ((.4<gone.float().mean((1,2)))&(gone.float().mean((1,2))<.8)).all()
    keep = ~gone[:,None].expand_as(cue)
    assert torch.equal(cue[keep], fog[keep]) and torch.equal(erase(fog, n=0), fog)
    assert (erase(fog, n=1)[:,3]==0).sum()==5*2500 and (erase(fog, n=1, side=256)[:,3]==0).all()
    assert torch.equal(erased_cue(batch, seed=2), cue)
    assert torch.equal(erase(no_cue(batch)), no_cue(batch))
    half = stroke_cue(batch, 12); assert (erase(half)[:,3]<=half[:,3]).all()

def test_strokes_are_translucent():
    cue = stroke_cue(batch, 12, seed=1)
    full = cue[:,3].amax((1,2))
    assert (full<=1).all() and (cue[:,3][cue[:,3]>0]).min()<.5 and len(cue[:,3].unique())>50

def test_mixture():
    assert abs(sum(s for s,_ in mix.values())-1)<1e-9
    small = batch[:1,:,::4,::4].expand(600,-1,-1,-1)
    cue = mixed_cue(small); told = (cue[:,3]>0).float().mean((1,2))
    assert abs((told==1).float().mean()-.2)<.05                        # three blurs
    assert abs(((told>.25)&(told<1)).float().mean()-.2)<.06            # blur erased
    assert .03<(told==0).float().mean()<.25

@pytest.mark.parametrize('f', samplers, ids=ids)
def test_wrong_pictures(f):
    for bad in (pictures[0]/255, None, 'a.png', pictures[0][...,0], np.zeros((0,4,3),np.uint8), np.zeros((8,8,4),np.uint8),
                torch.zeros(1,1,8,8), torch.zeros(8,8), torch.full((3,8,8),9.), torch.full((3,8,8),float('nan')), torch.zeros(1,3,8,8).long()):
        with pytest.raises(ValueError, match='expected'): f(bad)
    for seed in (-1, [1], [1,2,3,4,-5], range(6)):
        with pytest.raises(ValueError, match='expected a seed'): f(batch, seed=seed)

@pytest.mark.parametrize('f', counted, ids=ids)
def test_wrong_counts(f):
    for n in (-1, 2.5, -.1):
        with pytest.raises(ValueError, match='expected a whole number'): f(batch, n)
    with pytest.raises(ValueError, match='at most 16384'): point_cue(batch, 16385)

def test_wrong_erasing():
    for bad in (pictures[0], batch, None):
        with pytest.raises(ValueError, match='expected'): erase(bad)
    fog = blur_cue(batch)
    for kw in (dict(n=-1), dict(side=300), dict(side=-1), dict(seed=-1)):
        with pytest.raises(ValueError, match='expected'): erase(fog, **kw)

@pytest.mark.skipif(not (torch.cuda.is_available() or torch.backends.mps.is_available()), reason='needs a GPU')
@pytest.mark.parametrize('f', samplers, ids=ids)
def test_gpu_is_the_cpu(f):
    dev = 'cuda' if torch.cuda.is_available() else 'mps'
    there = f(batch.to(dev), seed=3)
    assert there.device.type==dev and ((there.cpu()-f(batch, seed=3)).abs()>1.1/127.5).float().mean()<1e-3
    with torch.autocast(dev): assert (f(batch.to(dev), seed=3)-there).abs().max()<1.1/127.5

@pytest.mark.parametrize('size,grow,wide', [(64,0,3),(64,4,3),(256,0,3),(256,3,7),(512,3,13)])
def test_rings_make_spots_seen(size, grow, wide):
    "A spot of one pixel is `wide` ones across, grown by a pixel at least; then comes the ring, then nothing"
    cue = np.zeros((size,size,4), np.uint8); cue[size//2,size//2] = 200,10,20,255; before = cue.copy(); seen = ringed(cue, grow)
    row,ring = seen[size//2],(48,48,48,255)
    assert ((row==(200,10,20,255)).all(-1)).sum()==wide and seen.dtype==np.uint8
    k = size//2+wide//2+1
    assert tuple(row[k])==ring and not row[k+max(1,wide//2)+1:].any() and set(map(tuple,seen.reshape(-1,4)))=={(0,0,0,0),(200,10,20,255),ring}
    assert np.array_equal(cue, before) and not ringed(np.zeros_like(cue)).any()

"Bins, encoding, loss: agreement with the published list, with scikit-learn and with a dense loss; properties; wrong input"
import numpy as np,pytest,torch
pytest.importorskip('kornia')
from sklearn.neighbors import NearestNeighbors
from children import Child

from manga_colorize.lab.gamut import ab_histogram,bin_colors,gamut_ab,gamut_bins,histogram_colors,kmeans_bins,rules,used_bins
from manga_colorize.color import split_lab
from manga_colorize.lab.encoding import decode,encode_benchmark,soft_encode,table_step
from manga_colorize.lab.bins import encoding_loss,grey_mask,prior,rebalance_weights

# The published bins, a: (least b, greatest b), all in steps of 10: read from the copy of pts_in_hull.npy in OpenCV's samples/dnn/colorization.cpp
PUBLISHED = {-90:(50,90), -80:(20,90), -70:(0,90), -60:(-20,90), -50:(-30,100), -40:(-40,100), -30:(-50,100), -20:(-50,100), -10:(-60,100), 0:(-70,100),
             10:(-80,90), 20:(-80,90), 30:(-90,90), 40:(-100,90), 50:(-100,80), 60:(-110,80), 70:(-110,80), 80:(-110,70), 90:(-110,70), 100:(-90,0)}

def colours(n=4000, seed=0):
    "ab of random colours of the gamut, (1, 2, n, 1)"
    return split_lab(torch.rand(1,3,n,1, generator=torch.Generator().manual_seed(seed))*2-1)[1]
def dense(idx, weights, q=313): return torch.zeros(idx.shape[0], q, *idx.shape[2:]).scatter_(1, idx, weights)
def search(ab, k, sigma, bins):
    "The exact encoding by scikit-learn, as the published code does it"
    far,idx = NearestNeighbors(n_neighbors=k, algorithm='ball_tree').fit(bins.double().numpy()).kneighbors(ab[0].flatten(1).T.double().numpy())
    w = np.exp(-far**2/(2*sigma**2)); w /= w.sum(1, keepdims=True)
    return tuple(torch.from_numpy(x.T).reshape(1,k,*ab.shape[2:]) for x in (idx,w.astype(np.float32)))

def test_bins_are_the_published_ones():
    published = [[float(a),float(b)] for a,(lo,hi) in PUBLISHED.items() for b in range(lo, hi+1, 10)]
    assert len(published)==313 and gamut_bins().tolist()==published

def test_rules_nest():
    sets = {r:{tuple(x) for x in gamut_bins(rule=r).tolist()} for r in rules}
    assert [len(s) for s in sets.values()]==[229,261,309,313]
    assert sets['point']<sets['cell']<sets['corner']<sets['hull']

@pytest.mark.parametrize('step', (5,8,10,20,33,50,60))
def test_every_colour_lies_among_bins(step):
    "Whatever the step, each colour has a bin within half a diagonal"
    bins = gamut_bins(step)
    assert torch.cdist(gamut_ab(32), bins).amin(1).max()<=step*.5**.5+1e-3
    assert (bins%step==0).all() and len(bins.unique(dim=0))==len(bins)

def test_bins_are_a_copy():
    b = gamut_bins(); b.zero_()
    assert gamut_bins().abs().max()==110

@pytest.mark.parametrize('step,rule', [(0,'hull'),(61,'hull'),(2.5,'hull'),(10,'nearest')])
def test_bins_refuse(step, rule):
    with pytest.raises(ValueError, match='expected a'): gamut_bins(step, rule)

def test_bin_colors_are_near():
    bins = gamut_bins(rule='point'); rgb = bin_colors(bins)
    shown = split_lab(rgb.T.reshape(1,3,-1,1))[1][0,:,:,0].T
    assert (shown-bins).norm(dim=1).median()<.1 and (shown-bins).norm(dim=1).max()<12

def test_histogram_takes_every_form(tmp_path):
    from PIL import Image
    from manga_colorize.dataset.batches import Pictures
    rng = np.random.default_rng(0); arrays = [rng.integers(0, 256, (16,16,3), np.uint8) for _ in range(3)]
    files = [tmp_path/f'{i}.png' for i in range(3)]
    for f,a in zip(files, arrays): Image.fromarray(a).save(f)
    batch = torch.from_numpy(np.stack(arrays)).permute(0,3,1,2)
    forms = [arrays, files, batch, batch/127.5-1, split_lab(batch/127.5-1)[1], Pictures(files, 16), [batch[:2],batch[2:]]]
    counts = [ab_histogram(f) for f in forms]
    assert all((c-counts[0]).abs().sum()<=6 for c in counts) and counts[0].sum()==768
    assert ab_histogram(files, n=2).sum()==ab_histogram(forms[5], n=2).sum()==ab_histogram(batch, n=2).sum()==512

def test_histogram_of_a_data_set(tmp_path):
    from manga_colorize.dataset.batches import manga_dls
    from manga_colorize.dataset.build import build_dataset,read_metadata
    from manga_colorize.world.artist import World
    build_dataset(World(seed=0), tmp_path/'d', size=64, n=6, max_complexity=90)
    n = sum(f['split']=='train' for f in read_metadata(tmp_path/'d'))
    a,b = ab_histogram(tmp_path/'d'),ab_histogram(manga_dls(tmp_path/'d', bs=2, augment=False))
    assert a.sum()==b.sum()==n*64*64 and (a-b).abs().sum()<=a.sum()*.001

def test_used_bins_are_those_of_a_search():
    ab = colours(); near = search(ab, 1, 5, gamut_bins())[0]
    ours = {tuple(x) for x in used_bins(ab).tolist()}
    theirs = {tuple(x) for x in gamut_bins()[near.unique()].tolist()}
    assert ours==theirs and len(used_bins(ab, least=1e9))==0 and len(used_bins(ab, k=5))>len(ours)

def test_kmeans():
    ab = colours(); bins = kmeans_bins(ab, 32)
    assert bins.shape==(32,2) and torch.equal(bins, kmeans_bins(ab, 32)) and bins.isfinite().all()
    for q in (0,10**6):
        with pytest.raises(ValueError, match='expected q'): kmeans_bins(ab, q)
    with pytest.raises(ValueError, match='at least one picture'): kmeans_bins([], 4)

@pytest.mark.parametrize('k,sigma', ((5,5),(10,5),(1,5),(5,2)))
@pytest.mark.parametrize('bins', (None,'kmeans'), ids=str)
def test_encoding_is_scikit_learns(k, sigma, bins):
    "Ours is the exact encoding of a colour at most half a step away: compare with the search for that colour, and for the colour itself"
    bins = None if bins is None else kmeans_bins(colours(), 32); points = gamut_bins() if bins is None else bins; q = len(points)
    ab = colours(seed=1); idx,weights = soft_encode(ab, k, sigma, bins)
    near = (ab/table_step).round()*table_step
    assert (near-ab).abs().max()<=table_step/2+1e-5
    i,w = search(near, k, sigma, points)
    torch.testing.assert_close(weights, w, atol=1e-5, rtol=0)      # ties may name another bin, at the same distance
    same = (dense(idx, weights, q)-dense(i, w, q)).abs().amax(1)<1e-5
    assert same.float().mean()>.9 or bins is None
    far = lambda i: (points[i]-near.permute(0,2,3,1)[:,None]).norm(dim=-1)
    torch.testing.assert_close(far(idx), far(i), atol=1e-3, rtol=0)
    i,w = search(ab, k, sigma, points)
    moved = (dense(idx, weights, q)-dense(i, w, q)).abs()
    if k>1 and sigma==5: assert moved.max()<.1 and moved.sum(1).mean()/2<.03
    mean = lambda i,w: (points[i]*w[...,None]).sum(1)
    if k>1: assert (mean(idx, weights)-mean(i, w)).norm(dim=-1).mean()<table_step/2

def test_encoding_properties():
    ab = colours().view(1,2,50,80).expand(3,-1,-1,-1); idx,w = soft_encode(ab)
    assert idx.shape==w.shape==(3,5,50,80) and idx.dtype==torch.long and w.dtype==torch.float32
    torch.testing.assert_close(w.sum(1), torch.ones(3,50,80)); assert (w[:,:-1]>=w[:,1:]).all() and (w>0).all()
    assert (idx.sort(1).values.diff(dim=1)>0).all()   # five different bins
    torch.testing.assert_close(decode(dense(idx, w).clamp(min=1e-12).log(), how='mean'), (gamut_bins()[idx]*w[...,None]).sum(1).permute(0,3,1,2),
                               atol=1e-2, rtol=0)

def test_encoding_is_fast(): assert encode_benchmark(n=3)>10   # 70 on a quiet machine

@pytest.mark.parametrize('kwargs', [dict(k=0),dict(k=314),dict(sigma=0),dict(sigma=-1),dict(bins=torch.zeros(0,2)),dict(bins=torch.zeros(3,3)),
                                    dict(bins=[[0,0]])], ids=str)
def test_encoding_refuses(kwargs):
    with pytest.raises(ValueError, match='expected'): soft_encode(colours(4), **kwargs)

@pytest.mark.parametrize('ab', [colours(4)[:,:1], colours(4)[0], colours(4)*float('nan'), colours(4)*0+300, colours(4).long(), None], ids=range(6))
def test_encoding_refuses_pixels(ab):
    with pytest.raises(ValueError, match='expected ab'): soft_encode(ab)

def test_decoding_ends():
    z = torch.randn(2,313,4,6, generator=torch.Generator().manual_seed(0))*3
    for T,how in ((0.,'mode'),(1.,'mean')): torch.testing.assert_close(decode(z, T), decode(z, how=how))
    torch.testing.assert_close(decode(z, .01), decode(z, 0), atol=1, rtol=0)
    p = (z.double()/.38).exp(); p /= p.sum(1, keepdim=True)
    torch.testing.assert_close(decode(z), torch.einsum('bqhw,qc->bchw', p, gamut_bins().double()).float(), atol=1e-3, rtol=0)

@pytest.mark.parametrize('kwargs', [dict(T=-.1),dict(T=1.1),dict(T=float('nan')),dict(how='median'),dict(bins=torch.zeros(312,2))], ids=str)
def test_decoding_refuses(kwargs):
    with pytest.raises(ValueError, match='expected'): decode(torch.zeros(1,313,2,2), **kwargs)

def test_prior_and_weights():
    p = prior(colours())
    assert p.shape==(313,) and (p>=0).all() and abs(p.sum()-1)<1e-5
    for lambda_ in (.1,.5,.9,1): w = rebalance_weights(p, lambda_); assert abs((p*w).sum()-1)<1e-5 and (w>0).all()
    assert (w-1).abs().max()<1e-5   # lambda 1: all the same
    w = rebalance_weights(p); assert w[p.argmax()]==w.min() and w[p.argmin()]==w.max()
    sharp,smooth = prior(colours(), sigma=1),prior(colours(), sigma=20)
    assert sharp.max()>p.max()>smooth.max()

def test_empty_bins_and_grey_data():
    p = prior(torch.full((1,2,8,8), 40.), sigma=1); assert (p==0).sum()>200
    assert rebalance_weights(p).isfinite().all()
    with pytest.raises(ValueError, match='expected no empty bin.*empty bins'): rebalance_weights(p, 0)
    with pytest.raises(ValueError, match='expected a data set with colours'): prior(torch.zeros(2,3,8,8))
    with pytest.raises(ValueError, match='sums to 1'): rebalance_weights(p*2)
    with pytest.raises(ValueError, match='expected lambda_'): rebalance_weights(p, -1)
    with pytest.raises(ValueError, match='sums to 1'): rebalance_weights(torch.full((313,), float('nan')))

def case(b=2, h=9, w=7, dtype=torch.float32):
    g = torch.Generator().manual_seed(0); ab = colours(b*h*w).view(2,b,h,w).transpose(0,1)
    return torch.randn(b,313,h,w, generator=g).to(dtype).requires_grad_(),*soft_encode(ab),torch.rand(313, generator=g)+.5

@pytest.mark.parametrize('most', (1,2000,1<<22))
@pytest.mark.parametrize('reuse', (False,True))
def test_loss_is_the_dense_one(most, reuse, monkeypatch):
    from manga_colorize.lab import bins
    pieces = bins._pieces; monkeypatch.setattr(bins, '_pieces', lambda z: pieces(z, most))
    z,idx,w,cw = case(); mask = torch.tensor([1.,0]).view(2,1,1,1)
    naive = -(dense(idx, w)*z.log_softmax(1)).sum(1, keepdim=True)
    for kwargs,theirs in ((dict(),naive.mean()), (dict(class_weights=cw, gradient_only=False),(naive*cw[idx[:,:1]]).mean()),
                          (dict(class_weights=cw, mask=mask, gradient_only=False),(naive*cw[idx[:,:1]])[:1].mean())):
        ours = encoding_loss(z*1, idx, w, reuse=reuse, **kwargs)
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(*[torch.autograd.grad(l, z, retain_graph=l is theirs)[0] for l in (ours,theirs)], atol=1e-6, rtol=1e-4)

def test_gradient_only():
    z,idx,w,cw = case()
    plain,paper,code = encoding_loss(z, idx, w),encoding_loss(z, idx, w, cw, gradient_only=False),encoding_loss(z, idx, w, cw)
    grads = [torch.autograd.grad(l, z)[0] for l in (paper,code)]
    assert code.item()==pytest.approx(plain.item()) and paper.item()!=pytest.approx(plain.item(), abs=1e-3)
    torch.testing.assert_close(*grads)

def test_reuse_is_guarded():
    "A layer that needs its own output for its backward pass makes PyTorch refuse, rather than give wrong gradients"
    z,idx,w,_ = case()
    with pytest.raises(RuntimeError, match='modified by an inplace operation'): encoding_loss(z.exp(), idx, w, reuse=True).backward()
    loss = encoding_loss(z*1, idx, w, reuse=True); loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'): loss.backward()

def tell_peak(how):
    "Print what the loss takes beyond logits and encoding, KB"
    import resource
    torch.set_num_threads(1); peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    idx,w = (x.contiguous() for x in soft_encode(torch.linspace(-80,80,6*2*160*160).view(6,2,160,160)))
    z = torch.zeros(6,313,160,160).fill_(.5).requires_grad_(); before = peak()
    if how=='ours': encoding_loss(z, idx, w, reuse=True).backward()
    else: (torch.zeros(6,313,160,160).scatter_(1, idx, w)*z.log_softmax(1)).sum(1).mean().neg().backward()
    print(peak()-before)

def test_memory_is_frugal(tmp_path):
    "The peak beyond logits and encoding, in a process for each; what ours needs does not grow with the batch: with 16 pictures it is less than a hundredth"
    pytest.importorskip('resource')
    ours,naive = (int(Child(tmp_path, tell_peak, how).end()[1]) for how in ('ours','naive'))
    print(ours, naive); assert ours<naive/6

def test_half_precision():
    z,idx,w,_ = case(dtype=torch.bfloat16); loss = encoding_loss(z, idx, w); loss.backward()
    assert loss.dtype==torch.float32 and z.grad.dtype==torch.bfloat16 and z.grad.isfinite().all()

def test_mixed_precision_stays_out():
    z,idx,w,cw = case(); loss,ab = encoding_loss(z, idx, w, cw),decode(z.detach())
    with torch.autocast('cpu', torch.bfloat16):
        torch.testing.assert_close(decode(z.detach()), ab); torch.testing.assert_close(encoding_loss(z, idx, w, cw), loss)

def test_nothing_counts():
    z,idx,w,cw = case(); loss = encoding_loss(z, idx, w, cw, mask=torch.zeros(2,1,1,1)); loss.backward()
    assert loss.item()==0 and z.grad.abs().sum()==0

def test_grey_mask():
    ab = torch.zeros(3,2,4,4); ab[1,0,2,2] = -6; ab[2] = 5
    assert grey_mask(ab).flatten().tolist()==[False,True,False] and grey_mask(ab, 4).flatten().tolist()==[False,True,True]
    with pytest.raises(ValueError, match='expected ab'): grey_mask(ab*float('nan'))

def test_loss_refuses():
    z,idx,w,cw = case()
    for args in ((z[:,:100],idx,w),(z[...,:3],idx,w),(z,idx[:,:2],w),(z[0],idx,w),(z,idx,w,cw[:9]),(z,idx,w,cw,torch.ones(2,9,7)),(z[:1],idx,w)):
        with pytest.raises(ValueError, match='expected'): encoding_loss(*args)

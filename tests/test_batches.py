"Batches: forms, both roads, repeatability, fastai"
import json,pickle
from functools import partial
from pathlib import Path

import cv2,numpy as np,pytest,torch
from fastai.basics import L1LossFlat,Learner,Module,chunked,nn
import fastai.callback.progress,fastai.callback.schedule
from manga_colorize.core import to_image,to_tensor,over_white
from manga_colorize.dataset.batches import EpochDL,PageDL,Pictures,cues,manga_dls
from manga_colorize.dataset.augment import cue_seeds,cut,luck,mirror,shuffled
from manga_colorize.dataset.build import build_dataset
from manga_colorize.cues.blur import blur_cue
from manga_colorize.sketches.sketchify import sketchify
from test_dataset import FakeWorld

@pytest.fixture(scope='module')
def pages(tmp_path_factory):
    path = tmp_path_factory.mktemp('batches')/'pages'
    build_dataset(FakeWorld(), path, size=64, n=30, valid_pct=.2, test_pct=0.)
    return path

cpu = partial(manga_dls, device='cpu')
def same(a, b):
    a,b = list(a),list(b)
    assert len(a)==len(b)
    return all(torch.equal(x,y) for p,q in zip(a,b) for x,y in zip(p,q))

@pytest.mark.parametrize('resident', (False,True))
@pytest.mark.parametrize('kwargs,side', [({},64), (dict(size=32),32), (dict(size=96),96), (dict(crop=32),32), (dict(augment=False),64), (dict(size=32,crop=16),16)])
def test_form(pages, resident, kwargs, side):
    dls = cpu(pages, bs=5, resident=resident, **kwargs)
    b = dls.one_batch()
    assert isinstance(b, tuple) and [tuple(x.shape) for x in b]==[(5,1,side,side),(5,4,side,side),(5,3,side,side)]
    assert all(x.dtype==torch.float32 and type(x) is torch.Tensor for x in b)
    sketch,cue,color = b
    assert set(sketch.unique().tolist())<={-1.,1.} and (cue[:,3]==1).all() and color.abs().max()<=1
    assert (dls.n_inp,dls.bs,len(dls.train),len(dls.valid),len(dls.train_ds),len(dls.valid_ds))==(2,5,4,2,24,6)
    assert dls.valid.one_batch()[0].shape[-1]==kwargs.get('size',64)   # whole pictures

@pytest.mark.parametrize('kwargs', [{}, dict(crop=32), dict(augment=False), dict(cue='none'), dict(size=48)])
def test_roads_agree(pages, kwargs):
    a,b = [cpu(pages, bs=4, resident=r, **kwargs) for r in (False,True)]
    for _ in range(2): assert same(a.train, b.train) and same(a.valid, b.valid)

def test_batches_are_opencvs(pages):
    dls = cpu(pages, bs=6)
    for sketch,cue,color in dls.valid:
        for s,c,x in zip(sketch,cue,color):
            a = to_image(x)
            grey = cv2.cvtColor(a, cv2.COLOR_RGB2GRAY)
            theirs = cv2.adaptiveThreshold(grey, 255, cv2.ADAPTIVE_THRESH_GAUSSIAN_C, cv2.THRESH_BINARY, 7, 2)
            assert (s==to_tensor(theirs)).float().mean()>=.999
            assert (c[:3]-to_tensor(cv2.GaussianBlur(a,(0,0),5))).abs().mean()*127.5<1

def test_pixels_survive(pages):
    "Valid pictures are the stored ones, in order, to the last level"
    from manga_colorize.core import read_image
    dls = cpu(pages, bs=6); files = dls.valid_ds.files
    got = torch.cat([b[2] for b in dls.valid])
    assert len(got)==len(files) and all((to_image(x)==read_image(f)).all() for x,f in zip(got,files))

def test_two_runs_are_alike_and_epochs_are_not(pages):
    a,b = cpu(pages, bs=4, seed=3),cpu(pages, bs=4, seed=3)
    first = list(a.train); assert same(first, b.train)
    torch.manual_seed(99); np.random.seed(99)
    second = list(a.train); assert same(second, b.train) and not same(first, second)
    assert not same(first, cpu(pages, bs=4, seed=4).train)

def test_resume(pages):
    a,b = cpu(pages, bs=4),cpu(pages, bs=4)
    for _ in range(3): list(a.train)
    assert a.train.epoch==3
    b.train.epoch = 3
    assert same(a.train, b.train) and a.train.epoch==b.train.epoch==4

def test_looking_changes_nothing(pages):
    a,b = cpu(pages, bs=4),cpu(pages, bs=4)
    got = []
    for x in a.train: got.append(x); a.one_batch(); a.train.show_batch(max_n=1)
    assert same(got, b.train) and a.train.epoch==1

def test_augmentation_depends_on_the_picture_not_on_its_batch(pages):
    a,b = [{x.numpy().tobytes() for bt in cpu(pages, bs=k).train for x in bt[2]} for k in (4,6)]
    assert a==b

def test_workers_change_nothing(pages):
    assert same(cpu(pages, bs=4).train, cpu(pages, bs=4, n_workers=2).train)

def test_can_be_pickled(pages):
    dls = cpu(pages, bs=4); again = pickle.loads(pickle.dumps(dls.train))
    assert same(dls.train, again)

def test_shuffle_is_a_permutation():
    for n in (1,2,17): assert sorted(shuffled(n,0,0))==list(range(n))
    assert luck(5,0,0).shape==(5,3) and not np.allclose(luck(5,0,0),luck(5,0,1))

def test_chances_are_even():
    c = luck(20000, 0, 0)
    np.testing.assert_allclose(c.mean(0), .5, atol=.01)
    offsets = np.unique((c[:,1]*(286-256+1)).astype(int)); assert list(offsets)==list(range(31))

def test_crop_keeps_the_statistics_of_the_whole(pages):
    "A cut of the sketch is the sketch of the whole, cut: also at its borders"
    dls = cpu(pages, bs=4, crop=32); whole = cpu(pages, bs=4, augment=False)
    for (s,c,x),(s0,c0,x0) in zip(dls.train, whole.train):
        for i in range(4):
            hits = [(y,z,f) for f in (False,True) for y in range(33) for z in range(33)
                    if torch.equal((x0[i].flip(-1) if f else x0[i])[:,y:y+32,z:z+32], x[i])]
            assert any(torch.equal((s0[i].flip(-1) if f else s0[i])[:,y:y+32,z:z+32], s[i])
                       and (((c0[i].flip(-1) if f else c0[i])[:,y:y+32,z:z+32]-c[i]).abs().max()<1.5/127.5) for y,z,f in hits)
        break

def test_cues(pages):
    _,cue,_ = cpu(pages, cue='none', bs=2).one_batch()
    assert (over_white(cue)==1).all() and (cue[:,3]==0).all()
    strong = lambda x: blur_cue(x, sigma=4)
    _,cue,color = cpu(pages, cue=strong, bs=2, augment=False).one_batch()
    torch.testing.assert_close(cue, blur_cue(color, sigma=4))
    s,_,color = cpu(pages, sketch=partial(sketchify, block_size=15), bs=2, augment=False).one_batch()
    assert torch.equal(s, sketchify(color, 15))

@pytest.mark.parametrize('cue', [c for c in cues if c not in ('blur','none')])
def test_seeded_cues(pages, cue):
    "Both roads and two runs agree, epochs differ, a resumed run goes on, validation keeps its cues"
    a,b = [cpu(pages, cue=cue, bs=4, resident=r, seed=5) for r in (False,True)]
    first = list(a.train); assert same(first, b.train)
    second = list(a.train); assert not all(torch.equal(x[1],y[1]) for x,y in zip(first,second))
    resumed = cpu(pages, cue=cue, bs=4, seed=5); resumed.train.epoch = 1; assert same(second, resumed.train)
    valid = list(a.valid); assert same(valid, a.valid) and same(valid, b.valid)
    assert not torch.equal(valid[0][1], cpu(pages, cue=cue, bs=4, seed=6).valid.one_batch()[1])

@pytest.mark.parametrize('kwargs', [dict(bs=6), dict(n_workers=2)])
def test_cues_depend_on_the_picture_not_on_its_batch(pages, kwargs):
    take = lambda dls: {x.numpy().tobytes():c for bt in dls.train for c,x in zip(bt[1],bt[2])}
    a,b = take(cpu(pages, cue='mixed', bs=4)),take(cpu(pages, cue='mixed', **(dict(bs=4)|kwargs)))
    assert a.keys()==b.keys() and all((a[k]-b[k]).abs().max()<1.1/127.5 for k in a)

def test_own_cue_may_take_a_seed(pages):
    got = []
    def mine(x, seed=0): got.append(seed); return blur_cue(x)
    for _ in cpu(pages, cue=mine, bs=4).train: pass
    assert all(len(s)==4 for s in got) and len({int(i) for s in got for i in s})==24
    assert cue_seeds(5,0,0).tolist()!=cue_seeds(5,0,1).tolist() and cue_seeds(5,0,0).min()>=0

def test_sparse_cues_are_cut_with_their_picture(pages):
    dls = cpu(pages, cue='patch', bs=4, crop=32)
    for sketch,cue,color in dls.train:
        told = cue[:,3:]==1
        assert cue.shape==(4,4,32,32) and ((cue[:,:3]-color).abs()*told).sum()/(3*told.sum().clamp(min=1))*127.5<25

class Net(Module):
    def __init__(self): self.layer = nn.Conv2d(5,3,1)
    def forward(self, sketch, cue): return self.layer(torch.cat([sketch,cue],1))

@pytest.mark.parametrize('resident', (False,True))
def test_learner(pages, resident):
    torch.manual_seed(0)
    dls = cpu(pages, bs=4, resident=resident)
    learn = Learner(dls, Net(), loss_func=L1LossFlat(), lr=.05)
    with learn.no_bar(),learn.no_logging():
        before = learn.validate()[0]; learn.fit(3)
        assert learn.validate()[0]<before and dls.train.epoch==3
        preds,targs = learn.get_preds()
        assert preds.shape==targs.shape==(6,3,64,64)
        torch.testing.assert_close(targs, torch.cat([b[2] for b in dls.valid]))
        learn.get_preds(ds_idx=0); assert dls.train.epoch==3
        learn.show_results(max_n=2); learn.lr_find(num_it=8, show_plot=False)

def test_learner_repeats_itself(pages):
    def weights():
        torch.manual_seed(0); learn = Learner(cpu(pages, bs=4, seed=1), Net(), loss_func=L1LossFlat())
        with learn.no_bar(),learn.no_logging(): learn.fit(2)
        return learn.model.layer.weight
    torch.testing.assert_close(weights(), weights(), atol=0, rtol=0)

def test_new(pages):
    dl = cpu(pages, bs=4, seed=2, cue='none').train; dl.epoch = 5
    n = dl.new(bs=2, augment=False)
    assert (n.bs,n.seed,n.epoch,n.cue,n.augment,n.shuffle,len(n))==(2,2,5,'none',False,True,12)
    empty = cpu(pages, bs=4).new_empty(); assert len(empty.train_ds)==0

def test_no_validation_is_allowed(tmp_path):
    build_dataset(FakeWorld(), tmp_path/'a', size=32, n=4, valid_pct=0.)
    dls = cpu(tmp_path/'a', bs=2)
    assert len(dls.valid)==0
    learn = Learner(dls, Net(), loss_func=L1LossFlat())
    with learn.no_bar(),learn.no_logging(): learn.fit(1)

@pytest.mark.parametrize('kwargs,match', [(dict(cue='blurr'),'expected a cue among'), (dict(bs=25),'at least one batch of 25 .* got 24'), (dict(bs=0),'batch size'),
                                          (dict(size=97),'expected a size of 16 to 96'), (dict(size=8),'expected a size'), (dict(crop=65),'expected a crop'), (dict(seed=-1),'expected a seed')])
def test_wrong_arguments(pages, kwargs, match):
    with pytest.raises(ValueError, match=match): cpu(pages, **(dict(bs=4)|kwargs)).one_batch()

def test_wrong_folders(tmp_path, pages):
    for p in (tmp_path, tmp_path/'nowhere'):
        with pytest.raises(ValueError, match='expected a finished data set'): cpu(p)
    (tmp_path/'metadata.jsonl').write_text(json.dumps(dict(file_name='a.png'))+'\n')
    with pytest.raises(ValueError, match='got 0'): cpu(tmp_path, bs=1)

def test_damaged_picture_is_named(tmp_path):
    build_dataset(FakeWorld(), tmp_path/'a', size=32, n=8)
    bad = sorted((tmp_path/'a'/'train').iterdir())[3]; bad.write_bytes(b'')
    for r in (False,True):
        with pytest.raises(ValueError, match=bad.name): list(cpu(tmp_path/'a', bs=1, resident=r).train)

def test_mirror_and_cut():
    x = torch.arange(2*3*5*5, dtype=torch.uint8).reshape(2,3,5,5)
    m = mirror(x, np.array([.1,.9])); assert torch.equal(m[0],x[0].flip(-1)) and torch.equal(m[1],x[1])
    c = cut(x, np.array([[0,.99],[.99,0]]), 3); assert torch.equal(c[0],x[0,:,:3,2:]) and torch.equal(c[1],x[1,:,2:,:3])
    with pytest.raises(ValueError, match='at least 6'): cut(x, np.zeros((2,2)), 6)

@pytest.mark.skipif(not (torch.cuda.is_available() or torch.backends.mps.is_available()), reason='needs a GPU')
@pytest.mark.parametrize('resident', (False,True))
def test_gpu_is_the_cpu(pages, resident):
    dev = 'cuda' if torch.cuda.is_available() else 'mps'
    for a,b in zip(cpu(pages, bs=4).train, manga_dls(pages, bs=4, resident=resident, device=dev).train):
        assert all(x.device.type==dev for x in b)
        s,c,x = [y.cpu() for y in b]
        assert (s==a[0]).float().mean()>=.999 and (c-a[1]).abs().mean()*127.5<.1 and (x-a[2]).abs().max()<1e-6

def test_own_sketches(tmp_path):
    "They are loaded, mirrored and cut with their pictures, on both roads"
    from test_dataset import Paired
    build_dataset(Paired(), tmp_path/'d', size=64, valid_pct=.3)
    for resident in (False,True):
        dls = manga_dls(tmp_path/'d', sketch='own', bs=4, resident=resident, device='cpu')
        sketch,cue,color = dls.one_batch()
        assert sketch.shape==(4,1,64,64) and color.shape==(4,3,64,64) and cue.shape==(4,4,64,64)
        ink = (sketch<0).float().mean((0,1,2))
        assert set(np.unique(sketch.round()).tolist())<={-1.,0.,1.} and .3<ink.mean()<.7
        sketch,_,_ = dls.valid.one_batch()
        assert (sketch[...,:31]==1).all() and (sketch[...,33:]==-1).all()

@pytest.mark.parametrize('sketch', ['rough','xdog','sketchify'])
def test_sketches_by_name(pages, sketch):
    "Both roads and two runs agree, a resumed run goes on, validation keeps its sketches"
    a,b = [cpu(pages, sketch=sketch, bs=4, resident=r, seed=5) for r in (False,True)]
    first = list(a.train); assert same(first, b.train) and first[0][0].shape==(4,1,64,64)
    second = list(a.train); resumed = cpu(pages, sketch=sketch, bs=4, seed=5); resumed.train.epoch = 1
    assert same(second, resumed.train)
    valid = list(a.valid); assert same(valid, a.valid) and same(valid, b.valid)
    assert same(pickle.loads(pickle.dumps(resumed.train)), resumed.train.new())
    assert cpu(pages, sketch=sketch, bs=4, n_workers=2, seed=5).train.one_batch()[0].equal(first[0][0])

def test_own_sketch_may_take_a_seed(pages):
    got,told = [],[]
    def mine(x, seed=0): got.append(seed); return sketchify(x)
    def cue(x, seed=0): told.append(seed); return blur_cue(x)
    plain = list(cpu(pages, bs=4).train)
    assert same(plain, cpu(pages, sketch=mine, cue=cue, bs=4).train)   # asking for seeds changes nothing else
    assert all((a==b).all() for a,b in zip(got,told)) and len({int(i) for s in got for i in s})==24

def test_unknown_sketch(pages):
    for sketch in ('ruff', None, 3):
        with pytest.raises(ValueError, match='expected a sketch among'): cpu(pages, sketch=sketch, bs=4)

def test_cuts_and_recolor(pages):
    "Several cuts of one picture agree with it; shuffled channels reach colour and cue alike"
    one,two = [manga_dls(pages, crop=32, cuts=k, bs=4, device='cpu') for k in (1,2)]
    a,b = one.one_batch(),two.one_batch()
    assert [len(x) for x in a]==[4]*3 and [len(x) for x in b]==[8]*3
    plain,mixed = [PageDL(one.train.dataset, bs=8, augment=True, recolor=r, device='cpu').one_batch() for r in (0.,1.)]
    assert torch.equal(plain[2].sort(1).values, mixed[2].sort(1).values) and not torch.equal(plain[2], mixed[2])
    assert (mixed[1][:,:3].mean((2,3))-mixed[2].mean((2,3))).abs().max()<.1
    with pytest.raises(ValueError, match='at least one cut'): manga_dls(pages, cuts=0)

class Cards(list): resident = True
class Dealer(EpochDL):
    def shuffle_fn(self, idxs): return shuffled(len(idxs), self.seed, self.now)
    def create_batches(self, idxs): return ([self.dataset[i] for i in b] for b in chunked(idxs, self.bs))
    def derive(self, b): return self.now,b

def test_rounds_of_any_loader():
    dealer = Dealer(Cards(range(40)), bs=8, shuffle=True, seed=3, device='cpu')
    rounds = [list(dealer) for _ in range(3)]
    assert [{n for n,_ in r} for r in rounds]==[{0},{1},{2}] and dealer.epoch==3
    assert all(sorted(sum((b for _,b in r), []))==list(range(40)) for r in rounds) and rounds[0][0][1]!=rounds[1][0][1]
    dealer.epoch = 1
    assert dealer.one_batch()==rounds[1][0] and dealer.epoch==1       # looking moves nothing
    assert list(dealer.new())==rounds[1] and list(dealer)==rounds[1]  # a copy goes on where this one stands
    other = dealer.new(seed=4, epoch=1)
    assert (other.seed,other.bs,other.shuffle)==(4,8,True) and list(other)!=rounds[1]

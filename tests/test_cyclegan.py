"CycleGAN against a second implementation: networks, the pool, and twelve steps of the authors' loop"
import numpy as np,pytest,torch
from PIL import Image
from torch import nn
from fastai.basics import DataLoader,DataLoaders,Recorder,get_model
from manga_colorize.core import seed_everything
from manga_colorize.training.checkpoints import Checkpoints,StopOnNaN,read_checkpoint
from manga_colorize.training.precision import FastMath
from manga_colorize.cyclegan.networks import *
from manga_colorize.dataset.unpaired import *
from manga_colorize.cyclegan.training import *

class TwinBlock(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.conv_block = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(dim, dim, 3), nn.InstanceNorm2d(dim), nn.ReLU(True),
                                        nn.ReflectionPad2d(1), nn.Conv2d(dim, dim, 3), nn.InstanceNorm2d(dim))
    def forward(self, x): return x+self.conv_block(x)

class TwinResnet(nn.Module):
    def __init__(self, ni, nf, ngf, n):
        super().__init__()
        row = [nn.ReflectionPad2d(3), nn.Conv2d(ni, ngf, 7), nn.InstanceNorm2d(ngf), nn.ReLU(True)]
        for k in (1,2): row += [nn.Conv2d(ngf*k, ngf*k*2, 3, 2, 1), nn.InstanceNorm2d(ngf*k*2), nn.ReLU(True)]
        row += [TwinBlock(ngf*4) for _ in range(n)]
        for k in (4,2): row += [nn.ConvTranspose2d(ngf*k, ngf*k//2, 3, 2, 1, output_padding=1), nn.InstanceNorm2d(ngf*k//2), nn.ReLU(True)]
        self.model = nn.Sequential(*row, nn.ReflectionPad2d(3), nn.Conv2d(ngf, nf, 7), nn.Tanh())
    def forward(self, x): return self.model(x)

class TwinJudge(nn.Module):
    def __init__(self, ni, ndf, n_layers):
        super().__init__()
        row,last = [nn.Conv2d(ni, ndf, 4, 2, 1), nn.LeakyReLU(.2, True)],ndf
        for n in range(1, n_layers+1):
            wide = ndf*min(2**n, 8)
            row += [nn.Conv2d(last, wide, 4, 2 if n<n_layers else 1, 1), nn.InstanceNorm2d(wide), nn.LeakyReLU(.2, True)]
            last = wide
        self.model = nn.Sequential(*row, nn.Conv2d(last, 1, 4, 1, 1))
    def forward(self, x): return self.model(x)

class TwinPool:
    "The authors' pool, picture by picture, fed from torch's dice as ours is"
    def __init__(self, size): self.size,self.images = size,[]
    def query(self, images):
        if self.size==0: return images
        out = []
        for image in images:
            if len(self.images)<self.size: self.images.append(image); out.append(image); continue
            if torch.rand(1).item()>=.5:
                i = torch.randint(self.size, (1,)).item()
                out.append(self.images[i].clone()); self.images[i] = image
            else: out.append(image)
        return torch.stack(out)

def shake(model):
    for v in model.state_dict().values(): v.copy_(torch.randn_like(v)*.2)
    return model

@pytest.mark.parametrize('nf,n', [(3,1),(1,6),(3,9)])
def test_generator_equals_twin(nf, n):
    torch.manual_seed(0)
    theirs,ours = shake(TwinResnet(3, nf, 4, n)),ResnetGenerator(3, nf, 4, n)
    ours.load_state_dict(from_pytorch_cyclegan(theirs.state_dict()))
    x = torch.randn(2, 3, 32, 48)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)
    for m in (ours, theirs): m(x).square().mean().backward()
    want = from_pytorch_cyclegan({k:p.grad for k,p in theirs.named_parameters()})
    for k,p in ours.named_parameters(): torch.testing.assert_close(p.grad, want[k], rtol=1e-3, atol=1e-6)

@pytest.mark.parametrize('n_layers', [1,2,3,4])
def test_discriminator_equals_twin(n_layers):
    torch.manual_seed(0)
    theirs,ours = shake(TwinJudge(3, 4, n_layers)),InstanceDiscriminator(3, 4, n_layers)
    ours.load_state_dict(from_pytorch_cyclegan(theirs.state_dict()))
    x = torch.randn(2, 3, 96, 64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)

def test_published_sizes():
    count = lambda m: sum(p.numel() for p in m.parameters())
    assert count(ResnetGenerator()) == count(TwinResnet(3, 3, 64, 9)) == 11_378_179
    assert count(InstanceDiscriminator()) == count(TwinJudge(3, 64, 3)) == 2_764_737

def test_old_and_parallel_checkpoints():
    "DataParallel's prefix, and the statistics that checkpoints before 2018 hold and nobody uses"
    old = {f'module.{k}':v for k,v in TwinResnet(3, 3, 4, 2).state_dict().items()}
    old |= {'module.model.2.running_mean':torch.zeros(4), 'module.model.10.conv_block.2.running_var':torch.zeros(16)}
    ResnetGenerator(3, 3, 4, 2).load_state_dict(from_pytorch_cyclegan(old))

@pytest.mark.parametrize('keys', [['model.model.0.weight'], ['model.1.weight','model.4.weight','model.10.conv_block.1.weight'], [],
    ['model.1.weight','model.4.bias','model.10.conv_block.1.weight','model.10.conv_block.6.weight'], ['stages.0.1.weight'], ['net.0.weight']])
def test_foreign_checkpoints_are_refused(keys):
    with pytest.raises(ValueError, match='expected a `resnet` generator'): from_pytorch_cyclegan({k:torch.zeros(1) for k in keys})

def test_recompute_is_exact_and_light():
    x,out = torch.randn(2, 3, 64, 64),[]
    for recompute in (False,True):
        torch.manual_seed(0); net = ResnetGenerator(ngf=8, n_blocks=6, recompute=recompute)
        y = net(x); y.square().mean().backward()
        out.append((y.detach(), [p.grad for p in net.parameters()], kept_bytes(net, x)))
    torch.testing.assert_close(out[0][0], out[1][0], rtol=0, atol=0)
    for a,b in zip(out[0][1], out[1][1]): torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    assert out[1][2] < out[0][2]/3

def test_recompute_in_half_precision():
    x,grads = torch.randn(2, 3, 32, 32),[]
    for recompute in (False,True):
        torch.manual_seed(0); net = ResnetGenerator(ngf=8, n_blocks=2, recompute=recompute)
        with torch.autocast('cpu', torch.bfloat16): y = net(x)
        y.float().square().mean().backward(); grads.append([p.grad for p in net.parameters()])
    for a,b in zip(*grads): torch.testing.assert_close(a, b)

def test_kept_bytes_counts_each_memory_once():
    x = torch.zeros(256, requires_grad=True)
    assert kept_bytes(lambda x: x.sin()*x.cos(), x) == 3*1024   # x, sin and cos

def test_pool():
    torch.manual_seed(0)
    ours,theirs = ImagePool(5),TwinPool(5)
    for i in range(40):
        x = torch.full((3,1,2,2), float(i))+torch.arange(3.)[:,None,None,None]/4
        state = torch.get_rng_state(); a = ours(x)
        torch.set_rng_state(state); assert torch.equal(a, theirs.query(x))
        assert len(ours.kept) <= 5

def test_pool_keeps_its_own_copies():
    pool,x = ImagePool(2),torch.zeros(2,1,2,2)
    pool(x); x.fill_(9)
    assert all((k==0).all() for k in pool.kept)

def test_pool_gives_half():
    torch.manual_seed(0)
    pool,n = ImagePool(50),4000
    x = torch.arange(float(n))[:,None,None,None]
    back = pool(x).flatten()
    assert torch.equal(back[:50], x.flatten()[:50]) and len(pool.kept)==50
    assert .46 < (back[50:]!=x.flatten()[50:]).float().mean() < .54
    assert {*back.tolist(), *(k.item() for k in pool.kept)}==set(range(n))   # nothing is lost

# ---------- training

def batches(n=12, bs=2, size=32):
    torch.manual_seed(5)
    return [(torch.rand(bs,1,size,size)*2-1, torch.rand(bs,3,size,size)*2-1) for _ in range(n)]

def learner(data, path, **kwargs):
    dls = DataLoaders(data, data[:1]); dls.n_inp = 1
    torch.manual_seed(0)
    learn = cyclegan_learner(dls, ngf=4, n_blocks=1, n_layers=1, path=path, **({'pool':3} | kwargs))
    if 'precision' not in kwargs: learn.remove_cb(FastMath)
    if torch.get_default_dtype()==torch.float64: learn.remove_cb(Recorder) # it averages in float32
    return learn

def fit(learn, n_epoch=1, **kwargs):
    with learn.no_bar(),learn.no_logging(): seed_everything(7); learn.fit(n_epoch, **kwargs)
    return learn

def plain(data, path, lr=2e-4, lambda_cycle=10., identity=.5):
    "`optimize_parameters` of the authors' cycle_gan_model.py: painters first, then one critic after the other, from the pool"
    m = get_model(learner(data, path).model).train()
    to_color,to_bw,judge_color,judge_bw = m.to_color,m.to_bw,m.judge_color,m.judge_bw
    og = torch.optim.Adam([*to_color.parameters(),*to_bw.parameters()], lr, (.5,.999))
    od = torch.optim.Adam([*judge_color.parameters(),*judge_bw.parameters()], lr, (.5,.999))
    says = lambda score,real: nn.functional.mse_loss(score, torch.full_like(score, float(real)))
    l1,rgb = nn.functional.l1_loss,lambda x: x.repeat(1, 3//x.shape[1], 1, 1)
    pool_color,pool_bw = TwinPool(3),TwinPool(3)
    seed_everything(7)
    for bw,color in data:
        fake_color = to_color(rgb(bw)); again_bw = to_bw(fake_color)
        fake_bw = to_bw(color);         again_color = to_color(rgb(fake_bw))
        loss = says(judge_color(fake_color), True) + says(judge_bw(fake_bw), True)
        loss = loss + lambda_cycle*(l1(again_bw, bw)+l1(again_color, color))
        if identity: loss = loss + lambda_cycle*identity*(l1(to_color(color), color)+l1(to_bw(rgb(bw)), bw))
        og.zero_grad(); loss.backward(); og.step()
        od.zero_grad()
        for judge,real,fake,pool in ((judge_color,color,fake_color,pool_color),(judge_bw,bw,fake_bw,pool_bw)):
            ((says(judge(real), True)+says(judge(pool.query(fake.detach())), False))*.5).backward()
        od.step()
    return m

def apart(a, b): return max((p-q).abs().max().item() for p,q in zip(a.parameters(), b.parameters()))

@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)

@pytest.mark.parametrize('identity', [.5, 0.])
def test_parity_with_the_published_loop(tmp_path, double, identity):
    data = batches(12)
    ours = fit(learner(data, tmp_path, lambda_identity=identity)).model
    theirs = plain(data, tmp_path, identity=identity)
    assert apart(theirs, learner(data, tmp_path).model) > 1e-4
    assert apart(ours, theirs) < 1e-9

def test_recompute_trains_alike(tmp_path, double):
    data = batches(4)
    assert apart(fit(learner(data, tmp_path, recompute=True)).model, plain(data, tmp_path)) < 1e-9

def test_fast_road_stays_near(tmp_path):
    data = batches(6)
    learn = fit(learner(data, tmp_path, precision='bf16'))
    want,start = plain(data, tmp_path),learner(data, tmp_path).model
    flat = lambda m: torch.cat([p.detach().flatten() for p in m.parameters() if p.ndim>1]) # a bias before a norm has nothing but noise for a gradient
    assert torch.cosine_similarity(flat(learn.model)-flat(start), flat(want)-flat(start), dim=0) > .75

def test_losses_reach_their_own_networks(tmp_path):
    "The painters' gradient is nil where only critics pay, and the other way round"
    model,(bw,color) = learner(batches(1), tmp_path).model,batches(1)[0]
    pairs = model.pairs(model(bw, color), bw, color, bw, color)
    sum(judge(shown).sum() for judge,_,_,shown in pairs).backward()
    assert all(p.grad is None for p in [*model.to_color.parameters(),*model.to_bw.parameters()])
    assert all(p.grad is not None for p in model.judge_color.parameters())

def test_critics_alone_see_the_pool(tmp_path):
    learn = fit(learner(batches(8), tmp_path)); model = learn.model
    assert len(model.pool_color.kept)==len(model.pool_bw.kept)==3
    bw,color = batches(1)[0]
    for _ in range(6):
        painted = model(bw, color)
        for (_,_,fake,shown),mine in zip(model.pairs(painted, bw, color), painted): assert fake is mine and not shown.requires_grad

def test_resume_is_exact(tmp_path):
    "Weights, Adam's averages and both pools come back from a checkpoint"
    class PowerCut(StopOnNaN):
        def before_batch(self):
            if self.training and self.train_iter==7: raise KeyboardInterrupt
    data = batches(5)
    whole = fit(learner(data, tmp_path), 3)
    with pytest.raises(KeyboardInterrupt): fit(learner(data, tmp_path), 3, cbs=[Checkpoints(tmp_path/'run.pt'), PowerCut()])
    assert read_checkpoint(tmp_path/'run.pt')['epoch']==1
    torch.manual_seed(99)
    again = fit(learner(data, tmp_path), 3, cbs=Checkpoints(tmp_path/'run.pt', resume=True))
    assert apart(whole.model, again.model)==0
    for a,b in zip(whole.model.pool_bw.kept, again.model.pool_bw.kept): assert torch.equal(a, b)

def test_save_load_predict(tmp_path):
    data = batches(3)
    one = fit(learner(data, tmp_path)); one.save('one')
    two = learner(data, tmp_path); two.load('one')
    fit(one); fit(two)
    assert apart(one.model, two.model)==0
    with one.no_bar(): painted,_ = one.get_preds(dl=data[:1])
    assert [x.shape[1] for x in painted]==[3,1,3,1,3,1]

def test_nan_is_named(tmp_path):
    data = batches(3); data[1][0].fill_(float('nan'))
    with pytest.raises(FloatingPointError, match='reconstruction loss is nan in epoch 1, batch 2'): fit(learner(data, tmp_path))

def test_loss_terms():
    loss,bw,color = CycleLoss(10., .5),torch.zeros(1,1,4,4),torch.zeros(1,3,4,4)
    painted = None,None,color+.1,bw+.2,color+.3,bw+.4
    torch.testing.assert_close(loss(painted, bw, color), torch.tensor(10*(.3+.5*.7)))
    torch.testing.assert_close(loss(painted[:4], bw, color), torch.tensor(3.))

# ---------- data

def folder(path, n, size=40, seed=0):
    rng = np.random.default_rng(seed); path.mkdir(parents=True)
    for i in range(n): Image.fromarray(rng.integers(0, 256, (size,size,3), dtype=np.uint8)).save(path/f'{i}.png')
    return path

def test_batches_and_ranges(tmp_path):
    a,b = folder(tmp_path/'a', 12),folder(tmp_path/'b', 7, seed=1)
    dls = unpaired_dls(a, b, size=32, bs=2, device='cpu')
    for bw,color in dls.train:
        assert bw.shape==(2,1,32,32) and color.shape==(2,3,32,32)
        assert bw.min()>=-1 and bw.max()<=1 and color.min()>=-1 and color.max()<=1
    assert len(dls.train)==11//2 and dls.train.epoch==1

def test_every_picture_is_dealt():
    for epoch in range(3):
        bw,color = meetings(5, 12, 0, epoch).T
        assert sorted(color)==list(range(12)) and set(np.bincount(bw, minlength=5))<={2,3}
    assert (meetings(5,12,0,0)!=meetings(5,12,0,1)).any() and (meetings(5,12,0,0)!=meetings(5,12,1,0)).any()

def test_same_batches_with_workers(tmp_path):
    a,b = folder(tmp_path/'a', 9),folder(tmp_path/'b', 9, seed=1)
    one,two = [list(unpaired_dls(a, b, size=32, bs=2, n_workers=n, device='cpu').train) for n in (0,2)]
    for x,y in zip(one, two): assert torch.equal(x[0], y[0]) and torch.equal(x[1], y[1])

def test_new_pictures_do_not_move_old_ones(tmp_path):
    a = folder(tmp_path/'a', 60)
    before = set(halves(a)[1])
    Image.fromarray(np.zeros((40,40,3), np.uint8)).save(a/'new.png')
    assert len(before ^ set(halves(a)[1])) <= 2

def test_greyed_is_opencvs():
    cv2 = pytest.importorskip('cv2')
    x = np.random.default_rng(0).integers(0, 256, (16,16,3), dtype=np.uint8)
    got = greyed(torch.from_numpy(x).permute(2,0,1)[None])
    assert ((got[0,0]+1)*127.5 - torch.from_numpy(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY)).float()).abs().max() <= .51

@pytest.mark.parametrize('kw,match', [(dict(size=256),'expected a size'), (dict(size=32,bs=50),'at least one batch'),
    (dict(size=32,bs=0),'batch size'), (dict(size=32,seed=-1),'seed'), (dict(size=32,valid_pct=0),'valid_pct')])
def test_bad_requests(tmp_path, kw, match):
    a,b = folder(tmp_path/'a', 6),folder(tmp_path/'b', 6)
    with pytest.raises(ValueError, match=match): unpaired_dls(a, b, **kw)

def test_bad_folders(tmp_path):
    a = folder(tmp_path/'a', 6); (tmp_path/'void').mkdir(); (tmp_path/'one').mkdir()
    (tmp_path/'one'/'x.png').write_bytes((a/'0.png').read_bytes())
    for bad in ('void','one'):
        with pytest.raises(ValueError, match='expected pictures for training and for validation'): unpaired_dls(a, tmp_path/bad, size=32)
    with pytest.raises(ValueError, match='expected a folder of pictures'): unpaired_dls(tmp_path/'gone', a, size=32)
    with pytest.raises(ValueError, match='expected a folder of pictures'): unpaired_dls(a/'0.png', a, size=32)

def test_grey_and_one_bit_files(tmp_path):
    b = folder(tmp_path/'b', 6); (tmp_path/'a').mkdir()
    for i in range(6): Image.fromarray(np.eye(40, dtype=bool)).save(tmp_path/'a'/f'{i}.tif')
    bw,_ = unpaired_dls(tmp_path/'a', b, size=40, bs=2, augment=False, device='cpu').one_batch()
    assert sorted(bw.unique().round().tolist())==[-1.,1.]

def test_training_rate_leaves_the_loaders(tmp_path):
    "Steps on one batch, as many as asked for; then the learner has its own loaders and goes on with them"
    from manga_colorize.evaluate.training_speed import training_rate
    learn,steps = learner(batches(1), tmp_path),[]
    own = learn.dls = DataLoaders(*[DataLoader(batches(n), bs=None) for n in (4,1)], device=torch.device('cpu')); own.n_inp = 1
    class Count(StopOnNaN):
        def after_batch(self): steps.append(self.xb[0].shape[0])
    learn.add_cb(Count())
    assert training_rate(learn, n=3, rounds=2)>0
    assert steps==[2]*6 and learn.dls is own
    fit(learn); assert len(steps)==6+4

# ---------- as a Colorizer, and on the board

def test_painter_of_any_size(tmp_path):
    from manga_colorize.colorizer.colorizer import Colorizer
    paint = Colorizer(CyclePainter(ResnetGenerator(ngf=4, n_blocks=1)))
    for h,w in ((1,1),(3,5),(8,8),(33,17)):
        assert paint(np.full((h,w), 255, np.uint8)).size==(w,h)

def test_colorizer_from_learner(tmp_path):
    from manga_colorize.colorizer.colorizer import Colorizer
    learn = fit(learner(batches(2), tmp_path))
    paint,page = Colorizer.from_learner(learn),np.random.default_rng(0).integers(0, 256, (40,24), dtype=np.uint8)
    paint.save(tmp_path/'painter')
    again = Colorizer.load(tmp_path/'painter', device='cpu')
    assert again(page).tobytes()==paint(page).tobytes() and again.model.config==learn.model.config
    assert paint(page, np.full((40,24,4), 200, np.uint8)).tobytes()==paint(page).tobytes()   # it takes no cue

def events(folder):
    reader = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    return reader.EventAccumulator(str(folder), size_guidance=dict(images=0, scalars=0, histograms=0)).Reload()

def test_board_resumes_without_overlap(tmp_path):
    pytest.importorskip('tensorboard')
    from manga_colorize.training.tensorboard import Board
    class PowerCut(StopOnNaN):
        def after_batch(self):
            if self.train_iter==8: raise KeyboardInterrupt
    data,cbs = batches(5),lambda resume: [Board(tmp_path/'runs', every=1, n=1, px=16), Checkpoints(tmp_path/'run.pt', resume=resume)]
    with pytest.raises(KeyboardInterrupt): fit(board_learner(data, tmp_path), 3, cbs=[*cbs(False), PowerCut()])
    fit(board_learner(data, tmp_path), 3, cbs=cbs(True))
    got = events(tmp_path/'runs')
    assert [p.step for p in got.Scalars('loss/generator')]==list(range(1,16))
    assert [p.step for p in got.Images('pictures')]==[5,10,15]

class Batches(list):
    def one_batch(self): return self[0]

def board_learner(data, path):
    learn = learner(data, path)
    learn.dls.loaders[1] = Batches(data[:1])
    return learn

def test_board_with_pix2pix(tmp_path):
    pytest.importorskip('tensorboard')
    from manga_colorize.training.tensorboard import Board
    from manga_colorize.pix2pix.training import pix2pix_learner
    data = [(torch.randn(2,1,32,32), torch.rand(2,4,32,32), torch.rand(2,3,32,32)*2-1) for _ in range(4)]
    dls = DataLoaders(data, Batches(data[:1])); dls.n_inp = 2
    for gan in ('vanilla', None):
        fit(pix2pix_learner(dls, ngf=2, n_down=5, gan_loss=gan, path=tmp_path), cbs=Board(tmp_path/str(gan), every=2, n=1, px=16))
        tags = events(tmp_path/str(gan)).Tags()
        assert tags['images']==['pictures'] and 'weights/generator' in tags['histograms'] and 'gradients/generator' in tags['histograms']
        assert ('loss/discriminator' in tags['scalars'])==(gan is not None) and 'loss/reconstruction' in tags['scalars']

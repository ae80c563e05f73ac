"The adversarial callback against plain PyTorch: two optimizers, generator first, then discriminator"
import pytest,torch
from torch import nn
from fastai.basics import Callback,CancelBatchException,CancelFitException,DataLoaders,Adam,Recorder,get_model,partial
from fastai.callback.all import GradientAccumulation
from manga_colorize.core import seed_everything
from manga_colorize.pix2pix.networks import *
from manga_colorize.pix2pix.import_weights import *
from manga_colorize.training.initialization import *
from manga_colorize.training.adversarial import *
from manga_colorize.pix2pix.training import *
from manga_colorize.training.precision import *
from manga_colorize.training.progress import *
from manga_colorize.training.schedule import *

def batches(n=12, bs=2, size=64):
    torch.manual_seed(5)
    return [(torch.randn(bs,1,size,size), torch.rand(bs,4,size,size), torch.rand(bs,3,size,size)*2-1) for _ in range(n)]

def networks():
    torch.manual_seed(0)
    return Pix2Pix(UnetGenerator(4, ngf=4, n_down=6), PatchDiscriminator(7, ndf=4))

def no_drop(model):
    "Channels last draws other dropout masks from the same dice"
    for m in model.modules():
        if isinstance(m, nn.Dropout): m.p = 0.
    return model

def learner(data, path, **kwargs):
    dls = DataLoaders(data, data[:1]); dls.n_inp = 2
    learn = pix2pix_learner(dls, ngf=4, n_down=6, path=path, **kwargs)
    if 'precision' not in kwargs: learn.remove_cb(FastMath)
    if torch.get_default_dtype()==torch.float64: learn.remove_cb(Recorder) # it averages in float32
    get_model(learn.model).load_state_dict({k:v for k,v in networks().state_dict().items() if k in learn.model.state_dict()})
    return learn

def fit(learn, n_epoch=1, **kwargs):
    with learn.no_bar(),learn.no_logging(): seed_everything(7); learn.fit(n_epoch, **kwargs)
    return learn

def plain(data, lr=2e-4, d_lr=None, lambda_l1=100., loss=nn.BCEWithLogitsLoss(), model=None):
    "The loop of the PyTorch twin, generator first"
    model = (model or networks()).train()
    g,d = model.generator,model.discriminator
    og = torch.optim.Adam(g.parameters(), lr, (.5,.999))
    od = torch.optim.Adam(d.parameters(), d_lr or lr, (.5,.999))
    says = lambda score,real: loss(score, torch.full_like(score, float(real)))
    seed_everything(7)
    for sketch,cue,color in data:
        white = cue[:,:3]*cue[:,3:] + 1-cue[:,3:]
        fake = g(torch.cat([sketch, white], 1))
        og.zero_grad()
        (says(d(torch.cat([sketch, white, fake], 1)), True) + lambda_l1*(fake-color).abs().mean()).backward()
        old = [p.clone() for p in g.parameters()]
        new_g = [p.grad.clone() for p in g.parameters()]
        od.zero_grad()
        ((says(d(torch.cat([sketch, white, color], 1)), True) + says(d(torch.cat([sketch, white, fake.detach()], 1)), False))/2).backward()
        for p,q in zip(g.parameters(), new_g): assert torch.equal(p.grad, q)
        og.step(); od.step()
    return model

def apart(a, b): return max((p-q).abs().max().item() for p,q in zip(a.parameters(), b.parameters()))

fastai_adam = partial(Adam, mom=.5, sqr_mom=.999, eps=1e-8, wd=0.)

@pytest.fixture
def double():
    "Rounding grows in Adam, which divides small gradients by themselves: parity is a matter of float64"
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)

@pytest.mark.parametrize('opt', [published_adam, fastai_adam], ids=['fused','fastai'])
def test_two_adam_parity(opt, tmp_path, double):
    data = batches()
    ours,theirs = fit(learner(data, tmp_path, opt_func=opt)).model,plain(data)
    assert apart(theirs, networks()) > 1e-4
    assert apart(ours, theirs) < 1e-9
    for (k,p),q in zip(ours.state_dict().items(), theirs.state_dict().values()):
        if 'num_batches' not in k: torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9)

def test_two_adam_parity_in_float32(tmp_path):
    data = batches()
    assert apart(fit(learner(data, tmp_path)).model, plain(data)) < 1e-5

def test_two_rates_and_lsgan_parity(tmp_path, double):
    data = batches()
    ours = fit(learner(data, tmp_path, lr=[1e-3,1e-4], gan_loss='lsgan', lambda_l1=10.)).model
    assert apart(ours, plain(data, 1e-3, 1e-4, 10., nn.MSELoss())) < 1e-9

def test_channels_last_agrees(tmp_path):
    data = batches(3)
    learn = learner(data, tmp_path, precision='fp32'); no_drop(learn.model)
    assert learn.fast_math.channels_last
    assert apart(fit(learn).model, plain(data, model=no_drop(networks()))) < 2e-5

def test_bf16_stays_near(tmp_path):
    data = batches(6)
    learn = learner(data, tmp_path, precision='bf16'); no_drop(learn.model)
    assert {p.dtype for p in fit(learn).model.parameters()} == {torch.float32}
    want = plain(data, model=no_drop(networks()))
    new,old = [torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (want, networks())]
    ours = torch.cat([p.detach().flatten() for p in learn.model.parameters()])
    assert torch.cosine_similarity(ours-old, new-old, dim=0) > .9

def test_validation_runs_in_float32(tmp_path):
    seen = []
    class Look(Callback):
        def after_pred(self): seen.append((self.training, torch.is_autocast_enabled('cpu')))
    learn = learner(batches(1), tmp_path, precision='bf16', cbs=Look())
    fit(learn)
    assert set(seen) == {(True,True),(False,False)} and not torch.is_autocast_enabled('cpu')

def test_autocast_is_left_when_a_batch_fails(tmp_path):
    class Cancel(Callback):
        def after_pred(self):
            if self.training: raise CancelFitException
    fit(learner(batches(1), tmp_path, precision='bf16', cbs=Cancel()))
    assert not torch.is_autocast_enabled('cpu')

class Fail(Callback):
    def after_pred(self):
        if self.training: raise RuntimeError('out of paint')

def test_autocast_is_left_after_an_error(tmp_path):
    fail = Fail(); learn = learner(batches(1), tmp_path, precision='bf16', cbs=fail)
    with pytest.raises(RuntimeError, match='out of paint'): fit(learn)
    assert not torch.is_autocast_enabled('cpu')
    learn.remove_cb(fail); fit(learn)
    assert not torch.is_autocast_enabled('cpu') and 'one_batch' not in vars(learn)

def test_fast_math_for_one_fit(tmp_path):
    "A learner goes on without it, also after an error"
    learn = learner(batches(1), tmp_path, precision='bf16'); learn.remove_cb(FastMath)
    with pytest.raises(RuntimeError, match='out of paint'): learn.fit(1, cbs=[FastMath(),Fail()])
    assert 'one_batch' not in vars(learn) and not torch.is_autocast_enabled('cpu')
    learn.fit(1); learn.fit(1, cbs=FastMath())
    assert len(learn.adversarial.history)==1 and 'one_batch' not in vars(learn)

def test_autocast_stays_on_after_a_cancelled_batch(tmp_path):
    class Skip(Callback):
        def after_pred(self):
            if self.training and self.iter==0: raise CancelBatchException
            if self.training: self.seen = torch.is_autocast_enabled('cpu')
    skip = Skip(); fit(learner(batches(3), tmp_path, precision='bf16', cbs=skip))
    assert skip.seen and not torch.is_autocast_enabled('cpu')

def test_losses_are_recorded(tmp_path):
    data = batches(3)
    learn = fit(learner(data, tmp_path), 2)
    assert learn.adversarial.history.shape == (6,3)
    model,(sketch,cue,color) = networks().train(),data[0]
    seed_everything(7)
    fake = model(sketch, cue)
    want = [100*(fake-color).abs().mean(), vanilla_loss(model.discriminator(beside(sketch, cue, fake)), True)]
    torch.testing.assert_close(learn.adversarial.history[0,:2], torch.stack(want).detach())
    means = learn.adversarial.history[3:].mean(0)
    assert learn.recorder.metric_names[-3:-1] == ['generator','discriminator']
    torch.testing.assert_close(torch.tensor(learn.recorder.values[-1][-2:]), means[1:])

def test_each_loss_reaches_its_own_network(tmp_path):
    "Generator gradients with and without the discriminator's loss are the same, and the other way round"
    sketch,cue,color = batches(1)[0]
    def grads(g_loss, d_loss):
        model = networks().train(); seed_everything(7)
        fake = model(sketch, cue); judge,real,forged,shown = model.pairs(fake, sketch, cue, color)[0]
        total = 0*fake.sum()
        if g_loss:
            with frozen(judge): total = total + vanilla_loss(judge(forged), True)
        if d_loss: total = total + vanilla_loss(judge(shown.detach()), False) + vanilla_loss(judge(real), True)
        total.backward()
        return [[torch.zeros_like(p) if p.grad is None else p.grad for p in m.parameters()] for m in (model.generator, model.discriminator)]
    zero = lambda ps: all((p==0).all() for p in ps)
    g,d = grads(True, False); assert not zero(g) and zero(d)
    g,d = grads(False, True); assert zero(g) and not zero(d)

def test_gradient_accumulation(tmp_path):
    data = batches(4, bs=2)
    class Count(Callback):
        n = 0
        def after_step(self): Count.n += 1
    learn = fit(learner(data, tmp_path, cbs=[GradientAccumulation(4), Count()]))
    assert Count.n == 2 and apart(learn.model, networks()) > 1e-5

def test_save_and_load(tmp_path):
    data = batches(4)
    one = fit(learner(data, tmp_path)); one.save('one')
    two = learner(data, tmp_path); two.load('one')
    fit(one); fit(two)
    assert apart(one.model, two.model) == 0
    state = torch.load(tmp_path/'models'/'one.pth', weights_only=True)
    assert len(state['opt']['state']) == len(list(one.model.parameters()))

def test_l1_alone(tmp_path):
    learn = fit(learner(batches(2), tmp_path, gan_loss=None))
    assert learn.model.discriminator is None and not hasattr(learn, 'adversarial')

def test_frozen_restores_on_error():
    m = nn.Linear(2,2); m.bias.requires_grad_(False)
    with pytest.raises(OSError):
        with frozen(m): assert not m.weight.requires_grad; raise OSError
    assert m.weight.requires_grad and not m.bias.requires_grad

def test_losses_in_half_precision_are_computed_in_full():
    score = torch.tensor([3.337], dtype=torch.bfloat16)
    for f in (vanilla_loss, lsgan_loss): assert f(score, True).dtype == torch.float32

def test_a_sleeping_critic_neither_learns_nor_speaks(tmp_path):
    learn = learner(batches(3), tmp_path); learn.adversarial.awake = False
    before = [p.clone() for p in learn.model.discriminator.parameters()]
    fit(learn)
    assert all((p==q).all() for p,q in zip(before, learn.model.discriminator.parameters()))
    assert (learn.adversarial.history[:,1:]==0).all() and (learn.adversarial.history[:,0]>0).all()
    learn.adversarial.awake = True; fit(learn)
    assert not all((p==q).all() for p,q in zip(before, learn.model.discriminator.parameters()))

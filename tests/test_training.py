"The learner, its schedule, its speed and its command"
import json,os,re,subprocess,sys
import numpy as np,pytest,torch
from PIL import Image
from fastai.basics import Callback,CancelFitException,DataLoader,DataLoaders
from manga_colorize.colorizer.train import train_method
from manga_colorize.commands.train import manga_train
from manga_colorize.core import seed_everything
from manga_colorize.dataset.batches import manga_dls
from manga_colorize.dataset.build import build_dataset
from manga_colorize.training.checkpoints import *
from manga_colorize.pix2pix.networks import *
from manga_colorize.pix2pix.import_weights import *
from manga_colorize.training.initialization import *
from manga_colorize.evaluate.training_speed import *
from manga_colorize.pix2pix.training import *
from manga_colorize.training.precision import *
from manga_colorize.training.progress import *
from manga_colorize.training.schedule import *
from fixtures import digest

def data(n=4, bs=2, size=32):
    torch.manual_seed(5)
    batches = [(torch.randn(bs,1,size,size), torch.rand(bs,4,size,size), torch.rand(bs,3,size,size)*2-1) for _ in range(n)]
    dls = DataLoaders(batches, batches[:1]); dls.n_inp = 2
    return dls

def learner(path, dls=None, **kwargs):
    seed_everything(0)
    learn = pix2pix_learner(dls or data(), ngf=2, n_down=5, path=path, **kwargs)
    learn.remove_cb(learn.progress); learn.logger = lambda *_: None
    return learn

@pytest.fixture(scope='session')
def pages(tmp_path_factory):
    "A small data set on disk"
    src,dst = tmp_path_factory.mktemp('src'),tmp_path_factory.mktemp('pages')/'set'
    rng = np.random.default_rng(0)
    for i in range(12):
        blocks = rng.integers(0, 256, (6,6,3), np.uint8)
        Image.fromarray(blocks).resize((64,64), Image.NEAREST).save(src/f'{i}.png')
    build_dataset(src, dst, size=64, max_complexity=100.)
    return dst

def rates(learn): return learn.recorder.hps['lr']

def test_flat_lin_values(tmp_path):
    "Four batches an epoch: flat for two epochs, then down by an eighth of the rest at each batch"
    learn = learner(tmp_path); learn.fit_flat_lin(2, 2, lr=1e-3)
    want = [1e-3]*8 + [1e-3*(8-i)/8 for i in range(8)]
    np.testing.assert_allclose(rates(learn), want, rtol=1e-5)

def test_flat_lin_keeps_two_rates(tmp_path):
    seen = []
    class Look(Callback):
        order = 61
        def before_batch(self):
            if self.training: seen.append([h['lr'] for h in self.opt.hypers])
    learn = learner(tmp_path, cbs=Look(), lr=[2e-4,1e-4]); learn.fit_flat_lin(1, 1)
    np.testing.assert_allclose(seen[0], [2e-4,1e-4]); np.testing.assert_allclose(seen[-1], [.5e-4,.25e-4], rtol=1e-5)

@pytest.mark.parametrize('epochs', [(0,0), (-1,2), (2,-1)])
def test_flat_lin_needs_epochs(epochs, tmp_path):
    with pytest.raises(ValueError, match='expected epochs'): learner(tmp_path).fit_flat_lin(*epochs)

def test_other_schedules_run(tmp_path):
    learn = learner(tmp_path); learn.fit_one_cycle(1, 1e-3)
    assert all(h['mom']==.5 for h in learn.opt.hypers)   # `moms` keeps the published momentum
    learn.fit_flat_cos(1, 1e-3)

def test_learner_is_published(tmp_path):
    learn = pix2pix_learner(data(), path=tmp_path)
    assert n_params(learn.model.generator) == 54_413_955+64*16 and n_params(learn.model.discriminator) == 2_768_705+64*16
    learn.create_opt()
    assert [(h['lr'],h['mom'],h['sqr_mom'],h['eps'],h['wd']) for h in learn.opt.hypers] == [(2e-4,.5,.999,1e-8,0)]*2
    assert learn.loss_func.lambda_l1 == 100

def test_kwargs_reach_the_learner(tmp_path):
    learn = learner(tmp_path, model_dir='weights', wd=.1, loss_func=torch.nn.MSELoss())
    assert isinstance(learn.loss_func, torch.nn.MSELoss)
    assert learn.model_dir == 'weights' and learn.wd == .1

def test_training_learns(tmp_path):
    sketch,cue,_ = data(1).train[0]
    batch = sketch,cue,(sketch+.3).clamp(-1,1).expand(-1,3,-1,-1).contiguous()
    dls = DataLoaders([batch]*4, [batch]); dls.n_inp = 2
    learn = learner(tmp_path, dls, lr=5e-3); learn.fit(8)
    assert learn.recorder.values[-1][1] < .9*learn.recorder.values[0][1]

@pytest.mark.parametrize('gan_loss', ['vanilla', 'lsgan', None])
def test_same_seed_same_weights(gan_loss, tmp_path):
    runs = [learner(tmp_path, gan_loss=gan_loss) for _ in range(2)]
    for l in runs: seed_everything(1); l.fit(1)
    for p,q in zip(*[l.model.parameters() for l in runs]): assert torch.equal(p, q)

def test_predictions(pages, tmp_path):
    dls = manga_dls(pages, bs=4)
    learn = learner(tmp_path, dls)
    preds,targets = learn.get_preds()
    assert preds.shape == targets.shape == (len(dls.valid_ds),3,64,64) and preds.dtype == torch.float32
    learn.show_results()

def test_nan_keeps_the_last_good_checkpoint(tmp_path):
    class Poison(Callback):
        order = -50
        def before_batch(self):
            if self.training and self.train_iter==9: self.learn.yb = (self.yb[0]*float('nan'),)
    learn = learner(tmp_path)
    with pytest.raises(FloatingPointError, match='reconstruction loss is nan in epoch 3, batch 2; the last good checkpoint is .*run.pt'):
        learn.fit_flat_lin(2, 2, cbs=[Checkpoints(tmp_path/'run.pt'), Poison()])
    state = read_checkpoint(tmp_path/'run.pt')
    assert state['epoch'] == 2 and all(v.isfinite().all() for v in state['model'].values())
    fresh = learner(tmp_path); fresh.fit_flat_lin(2, 2, cbs=Checkpoints(tmp_path/'run.pt', resume=True))

def test_nan_closes_the_progress_bar(tmp_path, capsys):
    dls = data(2); dls.train[1][2].fill_(float('nan'))
    learn = pix2pix_learner(dls, ngf=2, n_down=5, path=tmp_path)
    with pytest.raises(FloatingPointError): learn.fit(1)
    assert learn.logger is print and not hasattr(learn.progress, 'mbar')

def test_lr_find_runs(pages, tmp_path):
    learn = learner(tmp_path, manga_dls(pages, bs=4))
    before = [p.detach().clone() for p in learn.model.parameters()]
    learn.lr_find(num_it=8, show_plot=False)
    assert all(torch.equal(p, q) for p,q in zip(learn.model.parameters(), before))

def test_command(pages, tmp_path):
    from manga_colorize.colorizer.colorizer import Colorizer
    main,out = tmp_path/'main.py',tmp_path/'painter'
    main.write_text('from manga_colorize.commands.start import train\ntrain()\n')
    args = [str(pages), '--out', str(out), '--epochs', '2', '--bs', '4', '--ngf', '2', '--n_down', '5', '--gan_loss', 'lsgan', '--no-resident']
    env = {**os.environ, 'OMP_NUM_THREADS':'1', 'PYTHONPATH':os.pathsep.join(sys.path)}
    res = subprocess.run([sys.executable, '-W', 'ignore', str(main), *args], env=env, capture_output=True, text=True)
    assert res.returncode == 0 and str(out) in res.stdout, res.stderr
    paint = Colorizer.load(out)
    assert paint(np.full((40,50), 255, np.uint8)).size == (50,40)
    assert paint.config['training']['ngf'] == 2
    kept = json.loads((out/'train.json').read_text())
    assert (kept['epochs'],kept['resident'],kept['method']) == (2,False,'pix2pix')

small = dict(bs=4, ngf=2, n_down=5, epochs=2)

def test_a_run_resumes_exactly(pages, tmp_path):
    "A run stopped after one epoch and resumed ends as one that was not"
    train_method('pix2pix', pages, out=tmp_path/'whole', **small)
    class Stop(Callback):
        order = 91 # after the checkpoint
        def after_epoch(self): raise CancelFitException
    train_method('pix2pix', pages, out=tmp_path/'part', cbs=[Stop()], **small)
    assert read_checkpoint(tmp_path/'part'/'checkpoint.pt')['epoch'] == 1
    train_method('pix2pix', pages, out=tmp_path/'part', resume=True)
    whole,part = [digest(tmp_path/k/'model.safetensors') for k in ('whole','part')]
    assert whole == part

def test_command_names_what_is_wrong(pages, tmp_path, capsys):
    train_method('pix2pix', pages, out=tmp_path/'p', **{**small, 'epochs':1})
    for args,says in ((['--out',tmp_path/'p'], 'expected --resume'), (['--out',tmp_path/'p','--resume','--ngf',8], "got {'ngf': 8}"),
                      (['--out',tmp_path/'q','--resume'], 'expected a run to go on with'), (['--out',tmp_path/'q','--gan_loss','wgan','--bs',4], 'among'),
                      (['--out',tmp_path/'q','--bs',400], 'at least one batch'), (['--out',tmp_path/'q','--cue','red','--bs',4], 'red')):
        with pytest.raises(SystemExit, match='manga-train: ') as e: manga_train([str(x) for x in (pages,*args)])
        assert says in str(e.value)
    with pytest.raises(SystemExit, match='manga-train: '): manga_train([str(tmp_path/'nothing'), '--out', str(tmp_path/'q')])
    for args,says in ((['--method','soup'], 'expected a method of pix2pix, cyclegan, lab, cue_unet'), (['--depth','3'], 'unrecognized arguments: --depth')):
        with pytest.raises(SystemExit): manga_train([str(pages), *args])
        assert says in capsys.readouterr().err

@pytest.mark.parametrize('name', ['pix2pix','cyclegan','lab','cue_unet'])
def test_help_explains_the_options_of_a_method(name, capsys):
    "Every option has a comment, and its usual value"
    with pytest.raises(SystemExit): manga_train(['--method', name, '--help'])
    said = capsys.readouterr().out
    assert f'options of {name}' in said
    lines = re.split(r'\n  --', said[said.index(f'options of {name}'):])[1:]
    assert len(lines)>=8 and all(re.search(r'[A-Z][a-z ]+', l.split(None, 1)[1]) for l in lines), lines

def test_benchmark_runs():
    theirs,ours = step_benchmark(size=32, bs=1, ngf=2, n_down=5, n=2, rounds=1)
    assert theirs>0 and ours>0

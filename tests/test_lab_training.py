"Learners that choose colours: the loss falls, models come back equal from a folder, and bad data is refused by name"
from functools import partial

import numpy as np,pytest,torch
import torch.nn.functional as F
from PIL import Image

pytest.importorskip('kornia')
from manga_colorize.core import seed_everything,to_image
from manga_colorize.dataset.batches import manga_dls
from manga_colorize.dataset.build import build_dataset
from manga_colorize.world.artist import World
from manga_colorize.evaluate.color_metrics import ab_auc,ab_curve,ab_distance,balance_classes
from manga_colorize.lab.gamut import gamut_bins,used_bins
from manga_colorize.color import join_lab,split_lab
from manga_colorize.lab.network import LabPainter,grey_page,protocols
from manga_colorize.lab.training import *
from manga_colorize.colorizer.colorizer import Colorizer
from fixtures import picture,same

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp('lab')/'world'
    build_dataset(World(seed=0), out, size=48, n=24, scenes=0., cast=2, test_pct=0)
    return out

def loaders(folder, **kw): return manga_dls(folder, bs=4, resident=True, **kw)
def learner(folder, **kw):
    seed_everything(0)
    return lab_learner(loaders(folder), **{'width':1/16, 'lr':3e-3, 'precision':'fp32', **kw})
def quiet(learn, n=1, **kw):
    with learn.no_bar(),learn.no_logging(): learn.fit(n, **kw)
    return learn

@pytest.mark.parametrize('kw', [dict(protocol=p) for p in protocols]+[dict(classify=False), dict(rebalance=False)], ids=str)
def test_the_loss_falls(folder, kw):
    learn = learner(folder, **kw); b = learn.dls.train.one_batch()
    loss = lambda: learn.loss_func(learn.model.train()(*b[:2], raw=True), b[2])
    before = loss().item(); opt = torch.optim.Adam(learn.model.parameters(), lr=3e-3)
    for _ in range(5): opt.zero_grad(); loss().backward(); opt.step()
    assert loss().item()<before

@pytest.mark.parametrize('protocol', protocols)
def test_a_folder_gives_the_same_pages(folder, protocol, tmp_path):
    paint = Colorizer.from_learner(quiet(learner(folder, protocol=protocol))).to('cpu')
    again = Colorizer.load(paint.save(tmp_path), device='cpu')
    color = picture(0, 40, 56); sketch = grey_page(color); cue = np.dstack([color, np.full((40,56), 255, np.uint8)])
    assert same(again(sketch, cue), paint(sketch, cue))
    assert again.model.net.bins.equal(gamut_bins()) and again.model.class_weights.std()>0
    assert again.config['protocol']['sketch']['name']==('grey_page' if protocol=='grey' else 'sketchify')

def test_metrics_see_pages(folder):
    seen = []
    def spy(fake, color): seen.append(fake); return F.mse_loss(fake, color)
    learn = quiet(learner(folder, protocol='cue', metrics=[spy, ab_auc]))
    assert all(x.shape[1]==3 and x.abs().max()<=1 for x in seen) and 0<learn.recorder.values[-1][-1]<=100

def test_predictions_are_pages(folder):
    learn = learner(folder)
    with learn.no_bar(): fakes,colors = learn.get_preds()
    assert fakes.shape==colors.shape and fakes.abs().max()<=1
    with learn.no_bar(): learn.show_results(max_n=2)

@pytest.mark.parametrize('precision', ('fp32','bf16'))
def test_precisions(folder, precision):
    learn = quiet(learner(folder, protocol='cue', precision=precision))
    assert np.isfinite(learn.recorder.values[-1]).all()

def test_bfloat16_leaves_lab_exact(folder):
    learn = learner(folder); b = learn.dls.train.one_batch(); z = torch.randn(4, 313, 12, 12)
    exact = learn.loss_func((z,None), b[2])
    with torch.autocast('cpu', torch.bfloat16): assert learn.loss_func((z,None), b[2]).equal(exact)

def test_loss_equals_its_definition(folder):
    learn = learner(folder, rebalance=False); color = learn.dls.train.one_batch()[2]; z = torch.randn(4, 313, 12, 12)
    ab = split_lab(color)[1][:,:,::4,::4].permute(0,2,3,1).reshape(-1,2)
    far,idx = torch.cdist(ab, gamut_bins()).topk(5, largest=False)
    target = torch.zeros(len(ab), 313).scatter_(1, idx, (-far**2/50).softmax(1))
    slow = -(target*z.permute(0,2,3,1).reshape(-1,313).log_softmax(1)).sum(1).mean()
    assert abs(learn.loss_func((z,None), color).item()-slow.item())<5e-3

def test_rare_colours_weigh_more(folder):
    even,learn = learner(folder, rebalance=False),learner(folder)
    grey = gamut_bins().square().sum(1).argmin()
    assert (even.model.class_weights==1).all() and learn.model.class_weights[grey]==learn.model.class_weights.min()

def test_pictures_without_colour_are_refused(folder, tmp_path):
    import shutil; shutil.copytree(folder, tmp_path/'grey')
    for p in (tmp_path/'grey').rglob('*.png'): Image.open(p).convert('L').convert('RGB').save(p)
    for kw in (dict(), dict(classify=False), dict(rebalance=False)):
        with pytest.raises(ValueError, match='grey'): learner(tmp_path/'grey', **kw)

def test_own_bins(folder):
    bins = used_bins(loaders(folder)); learn = quiet(learner(folder, bins=bins))
    assert learn.model.net.q==len(bins)<313 and learn.model.net.bins.equal(bins)

def test_weights_for_other_bins_are_refused(folder, tmp_path):
    from manga_colorize.lab.bins import encoding_loss
    learn = learner(folder); learn.model.class_weights = torch.ones(7); b = learn.dls.train.one_batch()
    with pytest.raises(ValueError, match='class_weights'): learn.loss_func(learn.model(*b[:2], raw=True), b[2])
    paint = Colorizer.from_learner(learner(folder)); paint.save(tmp_path)
    text = (tmp_path/'config.json').read_text(encoding='utf-8')
    (tmp_path/'config.json').write_text(text.replace('"q": 313', '"q": 274'), encoding='utf-8')
    with pytest.raises(ValueError, match='expected the weights'): Colorizer.load(tmp_path)

def test_sizes_are_refused(folder):
    with pytest.raises(ValueError, match='multiples of 8'): quiet(lab_learner(loaders(folder, size=44), width=1/16, protocol='sketch'))

def test_auc_by_hand():
    rng = torch.Generator().manual_seed(0); light = torch.full((1,1,8,8), 60.)
    a,b = [join_lab(light, 20*torch.rand(1,2,8,8, generator=rng)-10) for _ in range(2)]
    d = ab_distance(a, b).flatten()
    assert abs(ab_auc(a, b)-100*np.mean([(d<=t).double().mean().item() for t in range(151)]))<1e-9
    assert abs(ab_curve(a, b)[-1].item()-1)<1e-9 and ab_auc(b, b)==100 and abs(ab_auc(b, b, balance_classes(b))-100)<1e-9

def test_balanced_auc_is_the_mean_over_colours():
    light = torch.full((1,1,4,4), 60.); ab = torch.zeros(1,2,4,4); ab[:,0,0,0] = 60; ab[:,1,0,0] = 40
    color,fake = join_lab(light, ab),join_lab(light, 0*ab)
    far = ab_distance(fake, color).max().ceil().item()
    assert abs(ab_auc(fake, color, balance_classes(color))-(100+100*(151-far)/151)/2)<1e-6
    assert ab_auc(fake, color)>95

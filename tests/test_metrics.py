"Scores agree with scikit-image, and the real-art protocol survives bad pictures"
import cv2,numpy as np,pytest,torch
from PIL import Image
from skimage import metrics as sk

from manga_colorize.core import over_white,to_tensor
from manga_colorize.evaluate.folder import evaluate_folder
from manga_colorize.core import picture_files,read_square
from manga_colorize.evaluate.metrics import mae,mse,psnr,ssim

def picture(seed, h=64, w=80):
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (8,8,3), dtype=np.uint8), (w,h), interpolation=cv2.INTER_CUBIC)

def near(color, seed=1): return np.clip(color+np.random.default_rng(seed).normal(0, 12, color.shape), 0, 255).astype(np.uint8)
def cue_alone(sketch, cue): return over_white(cue)

@pytest.mark.parametrize('seed', range(4))
def test_parity_with_scikit_image(seed):
    color = picture(seed); fake = near(color)
    assert psnr(fake, color)==pytest.approx(sk.peak_signal_noise_ratio(color, fake, data_range=255), abs=1e-6)
    assert mse(fake, color)==pytest.approx(sk.mean_squared_error(color, fake)/255**2, rel=1e-9)
    assert mae(fake, color)==pytest.approx(np.abs(color.astype(float)-fake).mean()/255, rel=1e-9)
    expect = sk.structural_similarity(color, fake, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    assert ssim(fake, color)==pytest.approx(expect, abs=1e-7)

def test_parity_with_torchmetrics():
    from torchmetrics.functional.image import peak_signal_noise_ratio,structural_similarity_index_measure
    x,y = [torch.stack([to_tensor(f(i)) for i in range(3)]).double() for f in (lambda i: near(picture(i)), picture)]
    assert psnr(x, y)==pytest.approx(peak_signal_noise_ratio(x, y, data_range=2., dim=(1,2,3)).item(), rel=1e-6)
    similar = structural_similarity_index_measure((x+1)/2, (y+1)/2, data_range=1., return_full_image=True)[1]
    assert ssim(x, y)==pytest.approx(similar[...,5:-5,5:-5].mean().item(), abs=1e-7)

@pytest.mark.parametrize('metric', [mse,mae,psnr,ssim])
def test_every_form_gives_the_same_number(metric, tmp_path):
    color = picture(0); fake = near(color); Image.fromarray(fake).save(tmp_path/'fake.png')
    expect = metric(fake, color)
    forms = [Image.fromarray(fake), tmp_path/'fake.png', str(tmp_path/'fake.png'), to_tensor(fake), to_tensor(fake)[None]]
    for form in forms: assert metric(form, color)==pytest.approx(expect, rel=1e-9)

@pytest.mark.parametrize('metric', [mse,mae,psnr,ssim])
def test_a_batch_is_the_mean_of_its_pictures(metric):
    colors = [picture(i) for i in range(3)]; fakes = [near(c) for c in colors]
    stack = lambda xs: torch.stack([to_tensor(x) for x in xs])
    assert metric(stack(fakes), stack(colors))==pytest.approx(np.mean([metric(f,c) for f,c in zip(fakes,colors)]), rel=1e-6)

@pytest.mark.parametrize('metric', [mse,mae,psnr,ssim])
def test_bad_pairs_are_refused(metric):
    color = picture(0)
    with pytest.raises(ValueError, match='one size'): metric(color, color[:32])
    with pytest.raises(ValueError, match='NaN'): metric(torch.full((1,3,16,16), torch.nan), torch.zeros(1,3,16,16))
    with pytest.raises(ValueError, match='expected'): metric(torch.zeros(1,1,16,16), torch.zeros(1,1,16,16))
    with pytest.raises(ValueError, match='expected uint8'): metric(color.astype(float), color)

def test_values_outside_the_range_are_clipped_as_a_file_would():
    assert mse(torch.full((1,3,16,16), 3.), torch.ones(1,3,16,16))==0

def test_as_a_fastai_metric():
    from fastai.learner import AvgMetric
    from types import SimpleNamespace
    colors = torch.stack([to_tensor(picture(i)) for i in range(3)]); fakes = torch.stack([to_tensor(near(picture(i))) for i in range(3)])
    metric = AvgMetric(psnr); metric.reset()
    for s in (slice(0,2), slice(2,3)):
        metric.accumulate(SimpleNamespace(pred=fakes[s], yb=(colors[s],), y=colors[s], to_detach=lambda x: x))
    assert metric.value==pytest.approx(psnr(fakes, colors), rel=1e-6)

def test_read_square_cuts_the_centre_and_whitens(tmp_path):
    wide = np.zeros((40,100,4), np.uint8); wide[:,30:70,:3] = 200; wide[:,30:70,3] = 255; wide[:10,30:70,3] = 0
    Image.fromarray(wide).save(tmp_path/'wide.png')
    square = read_square(tmp_path/'wide.png', 20)
    assert square.shape==(20,20,3) and (square[5:]==200).all() and (square[:5]==255).all()

def fill(folder, n=3):
    for i in range(n): Image.fromarray(picture(i, 64, 64)).save(folder/f'{"ab"[i%2]}_{i}.png')

def test_folder_scores_and_sources(tmp_path):
    fill(tmp_path); scores = evaluate_folder(cue_alone, tmp_path, size=64)
    assert [(r['painter'],r['source'],r['pictures']) for r in scores.rows]==[(p,s,n) for p in ('cue alone','model') for s,n in (('a',2),('b',1),('all',3))]
    assert scores.mean['psnr']==scores.baseline['psnr']
    (tmp_path/'sources.tsv').write_text('file\tsource\na_0.png\tPepper & Carrot | 6\n', encoding='utf-8')
    scores = evaluate_folder(cue_alone, tmp_path, size=64)
    assert {r['source'] for r in scores.rows}=={'Pepper & Carrot | 6','a','b','all'}
    assert all(line.count('|')==6 for line in scores._repr_markdown_().splitlines()[:10] if line.startswith('|'))

def test_broken_pictures_are_named_and_skipped(tmp_path):
    fill(tmp_path, 1); whole = (tmp_path/'a_0.png').read_bytes()
    (tmp_path/'cut.png').write_bytes(whole[:len(whole)//2]); (tmp_path/'empty.jpg').touch(); (tmp_path/'.hidden.png').touch()
    (tmp_path/'folder.png').mkdir()
    scores = evaluate_folder(cue_alone, tmp_path, size=64)
    assert sorted(name for name,_ in scores.skipped)==['cut.png','empty.jpg','folder.png'] and scores.mean['pictures']==1
    assert str(tmp_path) not in str(scores) and 'skipped cut.png' in str(scores)

def test_nothing_to_score(tmp_path):
    with pytest.raises(ValueError, match='expected a folder with pictures'): evaluate_folder(cue_alone, tmp_path)
    with pytest.raises(ValueError, match='expected a folder with pictures'): picture_files(tmp_path/'missing')
    (tmp_path/'a.png').touch()
    with pytest.raises(ValueError, match='at least one readable'): evaluate_folder(cue_alone, tmp_path)

def test_an_error_of_the_painter_is_not_hidden(tmp_path):
    fill(tmp_path, 1)
    def paint(sketch, cue): raise RuntimeError('painter broke')
    with pytest.raises(RuntimeError, match='painter broke'): evaluate_folder(paint, tmp_path, size=64)

def test_cue_alone_on_real_art(art):
    scores = evaluate_folder(cue_alone, art/'squares')
    assert scores.baseline['pictures']==23 and scores.baseline['psnr']==pytest.approx(16.2, abs=.1)

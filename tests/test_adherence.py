"Following a dot: colour differences against two references, painters whose virtues are known, and the curve of points"
import cv2,numpy as np,pytest
from dataclasses import replace
from PIL import Image

from manga_colorize.core import over_white
from manga_colorize.sketches.sketchify import sketchify
from manga_colorize.world.artist import World
from manga_colorize.evaluate.adherence import Adherence,adherence,ciede2000,dot_cue,find_dots,follow,make_trial,markers,other_color,rgb_to_lab
from manga_colorize.evaluate.curve import points_curve

# Sharma, Wu and Dalal 2005, table 1: two colours and their difference
sharma = '''50 2.6772 -79.7751 50 0 -82.7485 2.0425|50 3.1571 -77.2803 50 0 -82.7485 2.8615|50 2.8361 -74.02 50 0 -82.7485 3.4412
50 -1.3802 -84.2814 50 0 -82.7485 1|50 -1.1848 -84.8006 50 0 -82.7485 1|50 -.9009 -85.5211 50 0 -82.7485 1|50 0 0 50 -1 2 2.3669|50 -1 2 50 0 0 2.3669
50 2.49 -.001 50 -2.49 .0009 7.1792|50 2.49 -.001 50 -2.49 .001 7.1792|50 2.49 -.001 50 -2.49 .0011 7.2195|50 2.49 -.001 50 -2.49 .0012 7.2195
50 -.001 2.49 50 .0009 -2.49 4.8045|50 -.001 2.49 50 .001 -2.49 4.8045|50 -.001 2.49 50 .0011 -2.49 4.7461|50 2.5 0 50 0 -2.5 4.3065
50 2.5 0 73 25 -18 27.1492|50 2.5 0 61 -5 29 22.8977|50 2.5 0 56 -27 -3 31.903|50 2.5 0 58 24 15 19.4535|50 2.5 0 50 3.1736 .5854 1
50 2.5 0 50 3.2972 0 1|50 2.5 0 50 1.8634 .5757 1|50 2.5 0 50 3.2592 .335 1|60.2574 -34.0099 36.2677 60.4626 -34.1751 39.4387 1.2644
63.0109 -31.0961 -5.8663 62.8187 -29.7946 -4.0864 1.263|61.2901 3.7196 -5.3901 61.4292 2.248 -4.962 1.8731|35.0831 -44.1164 3.7933 35.0232 -40.0716 1.5901 1.8645
22.7233 20.0904 -46.694 23.0331 14.973 -42.5619 2.0373|36.4612 47.858 18.3852 36.2715 50.5065 21.2231 1.4146|90.8027 -2.0831 1.441 91.1528 -1.6435 .0447 1.4441
90.9257 -.5406 -.9208 88.6381 -.8985 -.7239 1.5381|6.7747 -.2908 -2.4247 5.8714 -.0985 -2.2286 .6377|2.0776 .0795 -1.135 .9033 -.0636 -.5514 .9082'''
sharma = np.array([p.split() for p in sharma.replace('\n','|').split('|')], float)

def test_all_pairs_of_the_paper():
    assert len(sharma)==34
    a,b,true = sharma[:,:3],sharma[:,3:6],sharma[:,6]
    assert np.abs(ciede2000(a,b)-true).max()<6e-5 and np.abs(ciede2000(b,a)-true).max()<6e-5

def test_parity_with_skimage():
    color = pytest.importorskip('skimage.color')
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (200,300,3), dtype=np.uint8)
    assert np.abs(rgb_to_lab(rgb)-color.rgb2lab(rgb)).max()<1e-6
    a,b = rng.uniform([0,-110,-110],[100,110,110],(2,200_000,3))
    a[:50,1:] = 0; b[25:75,1:] = 0; b[100:150] = a[100:150]
    assert np.abs(ciede2000(a,b)-color.deltaE_ciede2000(a,b)).max()<1e-6

def test_difference_properties():
    lab = rgb_to_lab(World(seed=1).illustration(1, size=64).color)
    assert ciede2000(lab,lab).max()==0 and ciede2000(lab,lab[0,0]).shape==(64,64) and ciede2000(lab[0,0],lab).shape==(64,64)
    assert np.isfinite(ciede2000(lab, [0,0,0])).all() and float(ciede2000([0,0,0],[100,0,0]))==pytest.approx(100)

@pytest.mark.parametrize('bad', [np.zeros(3), np.zeros((4,4),np.uint8), np.zeros((4,4,4),np.uint8), np.zeros((3,4,4),np.int64)],
                         ids=lambda x: f'{x.dtype}{x.shape}')
def test_lab_refuses(bad):
    with pytest.raises(ValueError, match='expected uint8'): rgb_to_lab(bad)

# --- dots and trials

@pytest.fixture(scope='module')
def ills(): return [World(seed=11).illustration(i) for i in range(8)]

def test_dots_lie_in_their_regions_in_their_colours(ills):
    for ill in ills:
        dots = find_dots(ill)
        assert 1<=len(dots)<=9 and len({(d.x,d.y) for d in dots})==len(dots)
        cue = dot_cue(dots,256)
        for d in dots:
            disc = np.zeros((256,256),np.uint8); cv2.circle(disc, (d.x,d.y), 3, 1, -1)
            assert d.region[disc>0].all() and (ill.lines[disc>0]>200).all(), 'all of the dot lies inside'
            assert (cue[disc>0]==[*d.color,255]).all() and len(np.unique(ill.flats[d.region]))==1
            assert cv2.connectedComponents(d.region.astype(np.uint8), connectivity=4)[0]==2

def test_trials_are_fair(ills):
    for i,ill in enumerate(ills):
        t = make_trial(ill,i); disc = (t.told[...,3]>0)&(t.without[...,3]==0)
        assert disc.any() and (t.told[disc]==[*t.dot.color,255]).all() and (t.told[~disc]==t.without[~disc]).all(), 'one dot is all the difference'
        assert t.dot.region[t.rest].all() and not t.dot.region[t.ring].any() and t.rest.sum()>200 and t.ring.any()
        assert not (cv2.dilate(disc.astype(np.uint8), np.ones((13,13)))>0)[t.rest].any(), 'the surroundings of the dot are left out'
        true = np.median(ill.color[t.rest],0).astype(np.uint8)
        assert ciede2000(rgb_to_lab(t.dot.color),rgb_to_lab(true))>15, 'the colour cannot be guessed'
        again = make_trial(ill,i)
        for k in ('sketch','without','told','rest','ring'): assert np.array_equal(getattr(t,k),getattr(again,k))

def test_trials_at_other_sizes_and_settings():
    for size in (64,128,512):
        t = make_trial(World(seed=11).illustration(1,size), 3)
        assert t.rest.shape==(size,size) and t.rest.any()
    ill = World(seed=11).illustration(1)
    assert make_trial(ill, others=0).without[...,3].max()==0
    assert cv2.connectedComponents((make_trial(ill, others=3).without[...,3]>0).astype(np.uint8))[0]-1==3
    assert np.array_equal(make_trial(ill, sketch=None).sketch, ill.lines)
    assert make_trial(replace(ill, flats=np.arange(256*256,dtype=np.int32).reshape(256,256))) is None

def test_every_colour_has_another():
    rng = np.random.default_rng(0)
    for rgb in np.r_[rng.integers(0, 256, (300,3)), [[0,0,0],[255,255,255],[128,128,128]], markers].astype(np.uint8):
        other = other_color(rgb,rng)
        assert ciede2000(rgb_to_lab(other),rgb_to_lab(rgb))>25 and any((other==m).all() for m in markers)

# --- painters whose virtues are known

def copies(sketch, cue): return over_white(cue)
def ignores(sketch, cue): return np.repeat(sketch[...,None],3,2)
def one_color(sketch, cue):
    told = cue[cue[...,3]>0][:,:3]
    return np.broadcast_to(told[0] if len(told) else np.uint8([255]*3), cue[...,:3].shape).astype(np.uint8)

class Knows:
    "Asks the World for the regions; `spill` more pixels around each"
    def __init__(self, ills, spill=0, shade=False): self.ills,self.spill,self.shade = {sketchify(i.color).tobytes():i for i in ills},spill,shade
    def __call__(self, sketch, cue):
        ill = self.ills[sketch.tobytes()]; page = ill.color.copy()
        for d in find_dots(ill):
            if not cue[d.y,d.x,3]: continue
            where = cv2.dilate(d.region.astype(np.uint8), np.ones((2*self.spill+1,)*2))>0
            light = ill.color[where].mean(-1,keepdims=True)/max(1,np.mean(d.color)) if self.shade else 1
            page[where] = (cue[d.y,d.x,:3]*light).clip(0,255)
        return page

@pytest.fixture(scope='module')
def rows(ills):
    knows = {k:Knows(ills,**kw) for k,kw in dict(floods={}, spills=dict(spill=8), shades=dict(shade=True)).items()}
    one = adherence(dict(copies=copies, ignores=ignores, drowns=one_color, **knows), World(seed=11), n=8, others=0)
    return {r['painter']:{k:r[k]['mean'] for k in ('before','after','leak')} for r in one.rows}

def test_copying_dots_scores_nothing(rows): assert rows['copies']['after']==rows['copies']['before']>20 and rows['copies']['leak']==0
def test_ignoring_cues_scores_nothing(rows): assert rows['ignores']['after']==rows['ignores']['before']>20 and rows['ignores']['leak']==0
def test_flooding_the_region_is_perfect(rows): assert rows['floods']['after']<1e-9<20<rows['floods']['before'] and abs(rows['floods']['leak'])<1e-9
def test_drowning_the_page_leaks_all_of_it(rows):
    assert rows['drowns']['after']<1e-9 and rows['drowns']['leak']==pytest.approx(rows['drowns']['before'], abs=5) and rows['drowns']['leak']>20
def test_spilling_leaks_some(rows): assert rows['spills']['after']<1e-9 and 3<rows['spills']['leak']<rows['drowns']['leak']
def test_shading_costs_a_little(rows): assert 0<rows['shades']['after']<12 and abs(rows['shades']['leak'])<1e-9

def test_the_same_with_other_dots_on_the_page(ills):
    for r in adherence(dict(copies=copies, floods=Knows(ills)), World(seed=11), n=8).rows:
        assert abs(r['leak']['mean'])<1e-9 and (r['after']['mean']<1e-9)==(r['painter']=='floods')

def test_tables():
    scores = adherence(copies, World(seed=11), n=2, size=128)
    assert [r['painter'] for r in scores.rows]==['model'] and scores.rows[0]['trials']==2
    assert '| model | 2 |' in scores._repr_markdown_() and 'World(seed=11), 128 px' in repr(scores) and '±' in repr(scores)
    assert '±' not in repr(Adherence(scores.trials[:1])).splitlines()[1]
    with pytest.raises(ValueError, match='expected a region'): adherence(copies, World(seed=11), n=0)

def test_any_form_of_picture_is_scored(ills):
    t = make_trial(ills[1],0)
    assert follow(lambda s,c: Image.fromarray(over_white(c)), t)==follow(copies, t)

# --- the curve

def test_the_curve_counts_and_pairs(ills):
    pictures,seen = [i.color for i in ills[:3]],[]
    def watch(sketch, cue): seen.append((cue[...,3]>0).copy()); return over_white(cue)
    curve = points_curve(dict(watch=watch, again=copies), pictures, counts=(0,4,40), size=128)
    assert curve.painters==['points alone','watch','again'] and curve.counts==[0,4,40] and len(curve['watch',4])==3
    assert [s.any() for s in seen]==[False,True,True]*3 and seen[2].sum()>seen[1].sum()
    for p in ('watch','again'): assert np.array_equal(curve.mean(p), curve.mean('points alone'))
    assert np.array_equal(points_curve(copies, pictures, counts=(4,), size=128)['model',4], curve['again',4]), 'the same points whatever else is asked'
    assert not np.array_equal(points_curve(copies, pictures, counts=(4,), size=128, seed=99)['model',4], curve['again',4])

def test_the_truth_is_above_all(ills):
    truth = iter([i.color for i in ills[:2] for _ in range(2)])
    curve = points_curve(lambda s,c: cv2.add(next(truth),1), [i.color for i in ills[:2]], counts=(0,5))
    assert curve.mean('model').min()>40

def test_curve_of_a_folder_and_its_forms(ills, tmp_path):
    for i,ill in enumerate(ills[:2]): Image.fromarray(ill.color).save(tmp_path/f'{i}.png')
    curve = points_curve(copies, tmp_path, counts=(0,3), size=64)
    assert np.array_equal(curve.mean('model'), points_curve(copies, [i.color for i in ills[:2]], counts=(0,3), size=64).mean('model'))
    assert curve.table()[0]==['points','points alone','model'] and '| 3 |' in curve._repr_markdown_() and '64 px' in repr(curve)
    import matplotlib; matplotlib.use('agg')
    ax = curve.plot(); assert len(ax.lines)==2; matplotlib.pyplot.close('all')
    for bad in ([],tmp_path/'none'):
        with pytest.raises(ValueError, match='expected'): points_curve(copies, bad)
    with pytest.raises(ValueError, match='expected'): points_curve(copies, tmp_path, counts=())

"Shapes, light and random scenes: determinism, sizes, layers, variety, wrong input"
import multiprocessing,zlib

import cv2,numpy as np,pytest
from manga_colorize.core import read_image
from manga_colorize.world import light,scenes,shapes
from manga_colorize.world.canvas import Canvas,Illustration
from manga_colorize.world.light import media,noise_field,relight
from manga_colorize.world.scenes import draw_scene
from manga_colorize.world.shapes import Spot,details,hsv,paint,palette,palettes,random_look,random_shape
from manga_colorize.sketches.sketchify import complexity,sketchify

def rng(*seed): return np.random.default_rng(seed)
def shrink(x, size): return cv2.resize(x, (size,size), interpolation=cv2.INTER_AREA)
def digest(i): s = draw_scene(rng(0,i), 96); return [zlib.crc32(o.tobytes()) for o in (s.color,s.lines,s.flats)]

def test_scene_is_an_illustration():
    for i in range(20):
        s = draw_scene(rng(1,i), 64)
        assert isinstance(s, Illustration) and s.characters==() and 'no_humans' in s.tags
        for layer,shape,dtype in ((s.color,(64,64,3),np.uint8), (s.lines,(64,64),np.uint8), (s.flats,(64,64),np.int32)):
            assert layer.shape==shape and layer.dtype==dtype and layer.flags.c_contiguous

def test_same_in_another_process_and_order():
    "A spawned process starts from nothing, as on Windows and macOS"
    with multiprocessing.get_context('spawn').Pool(1) as pool: far = pool.map(digest, [5,3,1,0])
    assert far==[digest(i) for i in (5,3,1,0)]
    assert len({tuple(d) for d in far})==4

def test_leaves_the_global_state_alone():
    np.random.seed(7); before = np.random.get_state()[1].copy()
    draw_scene(rng(0), 64)
    np.testing.assert_array_equal(before, np.random.get_state()[1])

def test_a_larger_scene_is_the_same_drawing():
    gaps = []
    for i in range(12):
        r,big = rng(2,i),rng(2,i)
        small,large = draw_scene(r, 128),draw_scene(big, 384)
        assert r.bit_generator.state==big.bit_generator.state # not one random number depends on the size
        gaps.append(abs(shrink(large.color,128).astype(int)-small.color).mean())
    assert np.median(gaps)<16, gaps

@pytest.mark.parametrize('size', (16,17,100,300))
def test_any_size(size): assert draw_scene(rng(3), size).color.shape==(size,size,3)

@pytest.mark.parametrize('size', (0,-4,3.5,'256',None,10**6))
def test_bad_size(size):
    with pytest.raises(ValueError, match='expected a size'): draw_scene(rng(3), size)

@pytest.mark.parametrize('name', scenes.ingredients)
def test_each_ingredient_draws(name):
    changed = 0
    for i in range(12):
        r = rng(4,i); look = random_look(r); c = Canvas(64, pen=tuple(look.pen), paper=(120,130,140))
        scenes.ingredients[name](c, r, look)
        changed += (c.color!=(120,130,140)).any()
    assert changed>=10, f'{name} left {12-changed} of 12 canvases as they were'
    assert name in scenes._chances

def test_chances_are_probabilities(): assert sum(scenes._chances.values())==pytest.approx(1) and sum(p for _,p in palettes.values())==pytest.approx(1)

def test_scenes_are_varied():
    "Ink, brightness, colour and empty paper all range widely, which is the point of them"
    many = [draw_scene(rng(5,i), 256).color for i in range(120)]
    ink,grey = np.array([complexity(sketchify(x)) for x in many]),np.array([x.mean() for x in many])
    white = np.array([(x.min(2)>250).mean() for x in many])
    vivid = np.array([np.ptp(x.astype(int),2).mean() for x in many])
    assert np.percentile(ink,10)<15 and np.percentile(ink,90)>30, np.percentile(ink,[10,50,90])
    assert np.percentile(grey,10)<90 and np.percentile(grey,90)>170
    assert .1<(white>.3).mean()<.5 and np.percentile(vivid,90)>60 and np.percentile(vivid,10)<35

def test_ink_of_scenes_covers_that_of_real_art(art):
    real = [complexity(sketchify(shrink(read_image(p)[...,:3], 256))) for p in sorted((art/'squares').glob('*.png'))]
    ours = [complexity(sketchify(draw_scene(rng(6,i)).color)) for i in range(80)]
    assert min(ours)<min(real) and max(ours)>max(real) and abs(np.median(ours)-np.median(real))<8

@pytest.mark.parametrize('name', shapes.details)
def test_details_stay_inside(name):
    for i in range(8):
        r = rng(7,i); look = random_look(r); c = Canvas(64); poly = shapes.place(shapes.oval(r), (.5,.5), .5)
        region = c.fill(poly, (90,60,30)); paper = c.flats==0
        details[name](c, r, look, Spot(poly, region, np.array([90.,60,30]), .5, np.array([.5,.5])))
        edge = cv2.dilate((~paper).astype(np.uint8), np.ones((5,5)))>0
        assert (c.color[~edge]==255).all() and (c.flats[paper]==0).all()

def test_paint_returns_its_region():
    for i in range(20):
        r = rng(8,i); c = Canvas(64); a = paint(c, r, random_look(r), shapes.place(random_shape(r), (.5,.5), .6))
        b = paint(c, r, random_look(r), shapes.place(random_shape(r), (.5,.5), .3))
        assert b>a>0 and (c.flats==b).any()

@pytest.mark.parametrize('kind', palettes)
def test_palette_is_rgb(kind):
    for i in range(50):
        p = palette(rng(9,i), 5, kind)
        assert p.shape==(5,3) and p.min()>=0 and p.max()<=255

@pytest.mark.parametrize('bad', [dict(n=3), dict(kind='neon'), dict(n=0)])
def test_bad_palette(bad):
    with pytest.raises(ValueError, match='expected n of at least 4'): palette(rng(0), **bad)

def test_hsv_is_colorsys():
    import colorsys
    for o in rng(0).random((100,3)): np.testing.assert_allclose(hsv(*o)/255, colorsys.hsv_to_rgb(*o), atol=1e-12)
    np.testing.assert_allclose(hsv(1.25,1,1), hsv(.25,1,1))

def test_hsv_broadcasts(): assert hsv([.1,.2],.5,1).shape==(2,3) and hsv(np.zeros((4,5)),0,0).shape==(4,5,3)

@pytest.mark.parametrize('name', light.lights|light.finishes)
@pytest.mark.parametrize('value', (0,255))
def test_each_effect_is_finite(name, value):
    f = (light.lights|light.finishes)[name](np.full((40,40,3),value,np.float32), rng(1), np.zeros((40,40),np.int32))
    assert (f.shape,f.dtype)==((40,40,3),np.float32) and np.isfinite(f).all()

@pytest.mark.parametrize('medium', [None,*media])
def test_relight_keeps_the_form(medium):
    s = draw_scene(rng(2), 64)
    x = relight(rng(0), s.color, s.flats, medium)
    assert x.shape==s.color.shape and x.dtype==np.uint8
    np.testing.assert_array_equal(x, relight(rng(0), s.color, s.flats, medium))

def test_bad_medium():
    s = draw_scene(rng(2), 64)
    with pytest.raises(ValueError, match='expected a medium'): relight(rng(0), s.color, s.flats, 'oil')

def test_noise_field_is_centred_and_sized():
    fields = np.stack([noise_field(rng(i), 64) for i in range(60)])
    assert fields.shape==(60,64,64) and abs(fields.mean())<.15 and .5<fields.std()<1.6
    assert np.abs(np.diff(fields,axis=2)).mean() < fields.std()/4 # it changes slowly

"The canvas and the curves: properties that any drawing relies on"
import numpy as np,pytest
from manga_colorize.world.canvas import *

def test_layers():
    c = Canvas(48)
    assert c.color.dtype==np.uint8 and c.ink.dtype==np.uint8 and c.flats.dtype==np.int32
    color,lines,flats = c.finish()
    assert color.shape==(48,48,3) and lines.shape==(48,48) and flats.shape==(48,48)
    assert (color==255).all() and (lines==255).all() and (flats==0).all()

@pytest.mark.parametrize('size', [0,15,-3,5000,1.5,'64',None])
def test_bad_size(size):
    with pytest.raises(ValueError, match='expected a size'): Canvas(size)

@pytest.mark.parametrize('ss', [1,2,3])
def test_fill_covers_its_area(ss):
    c = Canvas(100,ss)
    c.fill(np.array([(.2,.3),(.8,.3),(.8,.7),(.2,.7)]), (10,20,30))
    assert abs((c.finish()[2]==1).mean()-.24)<.02

def test_later_paint_hides_ink_and_region():
    c = Canvas(64)
    a = c.fill(ellipse((.5,.5),.3), (250,0,0), ink=.03)
    b = c.fill(ellipse((.5,.5),.4), (0,250,0))
    color,lines,flats = c.finish()
    assert lines.min()==255 and a not in flats and b in flats and tuple(color[32,32])==(0,250,0)

def test_shade_leaves_ink_and_flats():
    c = Canvas(64); r = c.fill(ellipse((.5,.5),.4), (200,200,200), ink=.02)
    ink,flats,color = c.ink.copy(),c.flats.copy(),c.color.copy()
    c.shade(ellipse((.4,.4),.3), (90,60,120), .7, clip=r, mode='multiply', soft=.02)
    assert (c.ink==ink).all() and (c.flats==flats).all() and (c.color!=color).any()
    assert (c.color[flats!=r]==color[flats!=r]).all()

@pytest.mark.parametrize('kwargs', [dict(),dict(outside=True),dict(soft=.03),dict(mode='screen'),dict(ramp=((.2,.2),(.8,.8)))])
def test_clip_holds(kwargs):
    c = Canvas(64); a = c.fill(ellipse((.3,.5),.2), (200,100,50)); c.fill(ellipse((.7,.5),.2), (50,100,200))
    before = c.color.copy(); c.shade(ellipse((.5,.5),.25), (0,255,0), .8, clip=a, **kwargs)
    assert (c.color[c.flats!=a]==before[c.flats!=a]).all() and (c.color[c.flats==a]!=before[c.flats==a]).any()

def test_off_the_page_is_harmless():
    c = Canvas(32)
    for at in ((-3,.5),(.5,9),(40,40)):
        r = c.fill(ellipse(at,.4), (0,0,0), ink=.02); c.shade(ellipse(at,.3), (9,9,9), clip=r); c.stroke(line([at,at]), .02)
    assert (c.finish()[0]==255).all()

def test_lines_are_finer_when_larger():
    def share(size):
        c = Canvas(size); c.stroke(line([(.1,.5),(.9,.5)]), .02, taper=(0,0)); return (c.finish()[1]<128).mean()
    assert share(64)>1.3*share(256)>1.3*share(1024)

@pytest.mark.parametrize('n', [2,5,9])
@pytest.mark.parametrize('closed', [False,True])
def test_spline_passes_through(n, closed):
    p = np.random.default_rng(n).random((n,2))
    s = spline(p, 7, closed)
    assert np.allclose(s[::7][:n], p) and len(s)==7*(n if closed else n-1)+(not closed)

@pytest.mark.parametrize('bad', [[(0,0)],np.zeros((3,3)),np.zeros(4)])
def test_spline_refuses(bad):
    with pytest.raises(ValueError, match='expected points'): spline(bad)

def test_ribbon_width():
    p = np.stack([np.linspace(0,1,21),np.zeros(21)],1)
    r = ribbon(p, .2, (0,0))
    assert np.ptp(r[:,1])==pytest.approx(.2) and len(r)==42

def test_transforms_undo():
    p = np.random.default_rng(0).random((5,2))
    assert np.allclose(rotate(rotate(p,.7,(.3,.4)),-.7,(.3,.4)), p)
    assert np.allclose(place(place(p,(.1,.2),2.),(-.05,-.1),.5), p)

def test_illustration_shows_itself():
    c = Canvas(32); jpeg = Illustration(*c.finish())._repr_jpeg_()
    assert jpeg[:3]==b'\xff\xd8\xff' and len(jpeg)<4000

"Pages of the World: determinism, boxes, gutters, masks, twins, chapters, tones"
import subprocess,sys
import cv2,numpy as np,pytest
from manga_colorize.world.layouts import layout,cut,clip
from manga_colorize.world.lettering import Sheet,alphabet,balloon,balloon_kinds,letter,room,sound
from manga_colorize.world.pages import Page
from manga_colorize.world.staging import Stage,draw_panel
from manga_colorize.world.screentone import darkness,halftone,lightness,screen,screens,screentone
from manga_colorize.world.identity import styles
from manga_colorize.world.artist import World

SMALL = 150,106
fields = ('bw','color','balloons','identities','parts')
def same(a, b): return a.panels==b.panels and a.style==b.style and a.characters==b.characters and all((getattr(a,f)==getattr(b,f)).all() for f in fields)
def covered(page, grow):
    "Where panels are, `grow` pixels wider"
    m = np.zeros(page.bw.shape,np.uint8)
    for s in page.shapes: cv2.fillPoly(m, [np.rint(s*16).astype(np.int32)], 1, cv2.LINE_8, 4)
    return cv2.dilate(m, np.ones((2*grow+1,)*2,np.uint8))>0

@pytest.fixture(scope='module')
def many(): return [World(5).page(i, size=SMALL) for i in range(60)]
@pytest.fixture(scope='module')
def large(): return [World(0).page(i, size=(800,566)) for i in range(6)]
@pytest.fixture(scope='module')
def chapter(): return World(1).chapter(6, World(1).cast(3), (480,340), 'cel')

# ---- many pages
def test_forms(many):
    for p in many:
        assert p.bw.shape==p.identities.shape==p.parts.shape==p.balloons.shape==SMALL and p.color.shape==(*SMALL,3)
        assert p.bw.dtype==p.color.dtype==p.parts.dtype==np.uint8 and p.identities.dtype==np.int32 and p.balloons.dtype==bool
        assert p.style in World.styles and len(p.shapes)==len(p.panels)

def test_boxes_are_on_the_page(many):
    for p in many:
        assert 3<=len(p.panels)<=8
        for x,y,w,h in p.panels: assert x>=0 and y>=0 and w>=8 and h>=8 and x+w<=SMALL[1] and y+h<=SMALL[0] and all(type(v) is int for v in (x,y,w,h))

def test_masks_agree(many):
    for p in many:
        assert ((p.identities>0)==(p.parts>0)).all() and p.parts.max()<=4
        assert not p.identities[p.balloons].any()
        assert set(np.unique(p.identities).tolist())-{0}=={w.id+1 for w in p.characters}

def test_variety(many):
    assert {len(p.panels) for p in many}=={3,4,5,6,7,8} and {p.style for p in many}==set(World.styles)
    assert np.mean([p.balloons.any() for p in many])>.95 and .02<np.mean([p.balloons.mean() for p in many])<.3
    assert np.mean([len(p.characters)>0 for p in many])>.97
    assert any(min(x,y)==0 for p in many for x,y,*_ in p.panels), 'a bleed'
    assert any(abs(s[0,1]-s[1,1])>4 for p in many for s in p.shapes), 'a slanted gutter'

# ---- what is drawn is where it is said to be
def test_gutters_are_white(large):
    for p in large:
        out = ~covered(p,4)&~p.balloons
        assert out.mean()>.02
        assert (p.bw[out]>250).mean()>.9 and (p.color[out].min(-1)>250).mean()>.9

def test_panels_match_what_is_drawn(large):
    for p in large:
        for s,(x,y,w,h) in zip(p.shapes,p.panels):
            low,high = s.min(0).clip(0),np.minimum(s.max(0),p.bw.shape[::-1])
            assert np.abs(np.array([*low,*high])-(x,y,x+w,y+h)).max()<=1
        assert (p.bw[covered(p,0)]<128).mean()>.03
        assert not p.identities[~covered(p,2)].any()

def test_reading_order(many):
    for p in many:
        first = p.panels[0]
        assert first[1]<.45*SMALL[0] and first[0]+first[2]>.85*SMALL[1]
        for (x,y,w,h),(u,v,a,b) in zip(p.panels,p.panels[1:]): assert not (v+b<=y+1 and u>=x+w-1), 'never up and to the right'

def test_balloons_are_white(large):
    for p in large:
        assert (p.bw[p.balloons]>200).mean()>.6 and (p.color[p.balloons].min(-1)>200).mean()>.6
        grey = cv2.cvtColor(p.color,cv2.COLOR_RGB2GRAY)
        assert np.abs(grey[p.balloons].astype(int)-p.bw[p.balloons]).mean()<6, 'the same letters on both'

def test_twins_share_their_ink(large):
    "What is nearly black in colour is black on the page, and light colour without a line is not"
    for p in large:
        ink = cv2.erode((lightness(p.color)<13).astype(np.uint8),np.ones((3,3),np.uint8))>0
        assert (p.bw[ink]<160).mean()>.85
        a,b = ((255-x).astype(np.float32) for x in (p.bw,cv2.cvtColor(p.color,cv2.COLOR_RGB2GRAY)))
        a,b = (x-cv2.GaussianBlur(x,(0,0),6) for x in (a,b))
        score = {d:float((np.roll(a,d,(0,1))*b).mean()) for d in ((0,0),(0,2),(2,0),(0,-2),(-2,0))}
        assert max(score,key=score.get)==(0,0), 'pixel for pixel'

# ---- the same again
def test_order_does_not_matter():
    a = [World(0).page(i,size=SMALL) for i in (4,1)]
    b = [World(0).page(i,size=SMALL) for i in (1,4)]
    assert same(a[0],b[1]) and same(a[1],b[0]) and not (a[0].bw==a[1].bw).all()

def test_global_state_does_not_matter():
    np.random.seed(0); a = World(0).page(2,size=SMALL)
    np.random.seed(7); np.random.random(9); b = World(0).page(2,size=SMALL)
    assert same(a,b)

def test_another_process_draws_the_same():
    code = ('import hashlib; from manga_colorize.world.pages import *; from manga_colorize.world.artist import World; p=World(2).page(3,size=(150,106));'
            'print(hashlib.sha256(p.bw.tobytes()+p.color.tobytes()+p.identities.tobytes()+p.balloons.tobytes()).hexdigest())')
    out = [subprocess.run([sys.executable,'-c',code],capture_output=True,text=True,check=True).stdout for _ in range(2)]
    assert out[0]==out[1] and len(out[0])>60

@pytest.mark.parametrize('i', range(3))
def test_larger_is_the_same_drawing(i):
    small,large = World(1).page(i,size=(300,212)),World(1).page(i,size=(600,424))
    assert small.characters==large.characters and np.abs(np.array(small.panels)*2-large.panels).max()<=3
    half = cv2.resize(large.color,(212,300),interpolation=cv2.INTER_AREA).astype(float)
    said = cv2.resize(large.balloons.astype(np.uint8),(212,300))|small.balloons
    free = cv2.dilate(said.astype(np.uint8),np.ones((9,9),np.uint8))==0              # a balloon may sit elsewhere
    assert abs(half-small.color)[free].mean()<14 and free.mean()>.6

def test_seeds_differ(): assert not (World(0).page(3,size=SMALL).color==World(1).page(3,size=SMALL).color).all()

# ---- chapters
def test_chapter_keeps_cast_and_hand(chapter):
    assert all(w.id in (0,1,2) for p in chapter for w in p.characters) and {p.style for p in chapter}=={'cel'}
    assert {w.id for p in chapter for w in p.characters}=={0,1,2}

def test_chapter_is_its_pages():
    w = World(1); a = w.chapter(2, w.cast(2), SMALL, 'flat', first=9)
    assert same(a[1], w.page(10, w.cast(2), SMALL, 'flat'))
    assert {c.id for p in w.chapter(3,size=SMALL) for c in p.characters}<=({c.id for p in w.chapter(8,size=SMALL) for c in p.characters})

def test_identities_keep_their_hair(chapter):
    "The bright half of somebody's hair has the painted colour in daylight, and never somebody else's"
    world,cel = World(1),styles['cel']
    hues = {k:np.array(cel.paint(world.character(k).palette['hair'])) for k in range(3)}
    right = seen = 0
    for p in chapter:
        for w in p.characters:
            on = (p.identities==w.id+1)&(p.parts==1)
            if on.sum()<200: continue
            c = np.median(p.color[on],0); c = c/c.sum()
            seen += 1; right += min(hues,key=lambda k: np.abs(hues[k]/hues[k].sum()-c).sum())==w.id
    assert seen>=6 and right/seen>.7

# ---- parts
@pytest.mark.parametrize('n', range(3,9))
def test_layout(n):
    for k in range(40):
        panels = layout(np.random.default_rng([k,n]), n=n)
        assert len(panels)==n
        assert all(np.ptp(p.shape,0).min()>.09 for p in panels)

def test_layout_panels_do_not_overlap():
    for k in range(60):
        m = np.zeros((282,200),int)
        for p in layout(np.random.default_rng(k)):
            if p.inset: continue
            one = np.zeros((282,200),np.uint8); cv2.fillPoly(one, [np.rint(p.shape*200*16).astype(np.int32)], 1, cv2.LINE_8, 4)
            m += cv2.erode(one, np.ones((3,3),np.uint8))
        assert m.max()==1

def test_cut_keeps_everything():
    square = np.array([(0,0),(1,0),(1,1),(0,1)],float)
    for a in np.linspace(0,3,13):
        x,y = cut(square,(.4,.5),a,0.)
        assert abs(cv2.contourArea(x.astype(np.float32))+cv2.contourArea(y.astype(np.float32))-1)<1e-5
    assert len(clip(square,(0,2),(0,1)))==0

@pytest.mark.parametrize('kind', (*screens,'sand'))
def test_screens_are_level(kind):
    t = screen((200,200),kind,5.3,.4)
    assert t.dtype==np.float32 and 0<=t.min() and t.max()<=1
    assert np.abs(np.quantile(t,(.1,.5,.9))-(.1,.5,.9)).max()<.03

def test_screens_fit_together():
    for kind in (*screens,'sand'): assert np.allclose(screen((40,60),kind,4.,.7)[5:,7:], screen((35,53),kind,4.,.7,at=(7,5)), atol=2e-3)

@pytest.mark.parametrize('kind', (*screens,'sand'))
def test_halftone_is_monotone(kind):
    t = screen((80,80),kind,5.)
    prints = [halftone(np.full((80,80),d,np.float32),t,.3) for d in np.linspace(0,1,21)]
    assert (np.diff([p.mean() for p in prints])<0).all() and prints[0].min()==255 and prints[-1].max()==0
    assert all((b<=a).all() for a,b in zip(prints,prints[1:])), 'pixel for pixel'

def test_tone_follows_lightness():
    "Many colours, each printed on its own: the order of lightness is kept"
    rng,white,one = np.random.default_rng(0),np.full((60,60),255,np.uint8),np.ones((60,60),int)
    colors = rng.integers(0,256,(80,3),np.uint8)
    light = np.array([lightness(c[None,None])[0,0] for c in colors])
    for base in ((10,200,60),(90,90,90),(250,10,130)):
        grey = np.array([screentone(np.tile(c,(60,60,1)),white,one,paints=np.array([base]*2)).mean() for c in colors])
        assert (np.diff(grey[light.argsort()])>=-1.5).all()
    assert (np.diff(darkness(np.linspace(0,100,400)))<=0).all() and (np.diff(darkness(np.linspace(0,100,400),True))<=0).all()

def test_lines_are_printed():
    lines = np.full((50,50),255,np.uint8); lines[20:23] = 0
    bw = screentone(np.full((50,50,3),240,np.uint8), lines, np.ones((50,50),int))
    assert (bw[20:23]==0).all() and (bw[:19]==255).all()

def test_signs_are_many_and_stay_in_their_cells():
    assert len(alphabet())>=60 and all(3<=len(s)<=6 for s in alphabet())
    assert max(np.abs(c).max() for s in alphabet() for c in s)<.62

@pytest.mark.parametrize('kind', balloon_kinds)
def test_balloon(kind):
    s = Sheet((300,300)); s.bw[:] = 128; s.color[:] = 128
    balloon(s, np.random.default_rng(1), (.5,.3), room(4,2), kind, (.5,.8)); letter(s, np.random.default_rng(1), (.5,.3), 4, 2)
    ys,xs = np.nonzero(s.said)
    assert .005<s.said.mean()<.1 and abs(xs.mean()/300-.5)<.05 and (s.bw[s.said>0]>150).mean()>.5 and (s.bw[s.said>0]<100).any()

def test_lettering_at_the_border():
    s = Sheet((40,40))
    letter(s, np.random.default_rng(0), (0,0), 5, 5, .2); sound(s, np.random.default_rng(0), (1,1), .5)
    balloon(s, np.random.default_rng(0), (1,0), (.3,.3), 'cloud', (-1,3))

@pytest.mark.parametrize('size', ((8,200),(200,8),(17,33),(300,40)))
def test_panels_of_any_shape(size):
    for k in range(6):
        d = draw_panel(np.random.default_rng(k), size, World(0).cast(2), styles['cel'], 'city')
        assert d.bw.shape==size==d.who.shape==d.parts.shape and d.color.shape==(*size,3)

def test_panel_without_people():
    d = draw_panel(np.random.default_rng(0), (60,90), [], styles['cel'], 'night', 'night')
    assert not d.who.any() and not d.heads

def test_stage_is_a_window_of_the_square():
    "A strip shows what the square shows there"
    def draw(c):
        r = c.fill([(.1,.05),(.9,.1),(.7,.6)], (90,140,200), ink=.01); c.shade([(.3,0),(.6,0),(.5,.9)], (250,0,0), .5, clip=r, ramp=[(0,0),(1,.2)])
        return c.finish()
    from manga_colorize.world.canvas import Canvas
    for a,b in zip(draw(Stage(40,100)),draw(Canvas(100))): assert np.abs(a.astype(int)-b[:40].astype(int)).mean()<.2

@pytest.mark.parametrize('kwargs, words', [(dict(i=-1),'expected an index'), (dict(i=1.5),'expected an index'), (dict(i=True),'expected an index'),
                                           (dict(i=0,cast=[]),'at least one'),
    (dict(i=0,style='x'),'expected a style'), (dict(i=0,size=(100,300)),'upright'), (dict(i=0,size=(40,30)),'upright'), (dict(i=0,size=(900,300)),'upright')])
def test_bad_pages(kwargs, words):
    with pytest.raises(ValueError, match=words): World(0).page(**kwargs)

@pytest.mark.parametrize('kwargs', [dict(n=0), dict(n=1,first=-1), dict(n=2,cast=()), dict(n=True)])
def test_bad_chapters(kwargs):
    with pytest.raises(ValueError, match='expected'): World(0).chapter(**kwargs)

def test_page_shows_itself(many): assert isinstance(many[0],Page) and many[0]._repr_jpeg_()[:2]==b'\xff\xd8'

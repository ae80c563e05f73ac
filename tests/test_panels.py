"Panels, balloons and screentone: boxes, order, odd scans, masks, smooth grey"
import json
import cv2,numpy as np,pytest
from PIL import Image
from manga_colorize.scans.balloons import balloons,speaks
from manga_colorize.scans.descreen import descreen,dot_period,strokes,toned
from manga_colorize.scans.gutters import best_cuts,cut_tables,hush,paper_and_ink
from manga_colorize.world.layouts import layout
from manga_colorize.scans.panels import read_page,panel_f1,panel_hits,panels,panels_benchmark,reading_order,reduced
from manga_colorize.world.screentone import halftone,screen
from manga_colorize.world.artist import World
import manga_colorize.world.pages
import manga_colorize.scans.panels as panels_module

grid = [(220,20,180,180),(20,20,180,180),(220,220,180,180),(20,220,180,180),(20,420,380,160)]   # in reading order
def drawn(boxes=grid, size=(600,420)):
    "A page with framed panels and something in each"
    g = np.full(size,255,np.uint8)
    for k,(x,y,w,h) in enumerate(boxes):
        cv2.rectangle(g, (x,y), (x+w-1,y+h-1), 0, 3)
        cv2.circle(g, (x+w//2,y+h//2), min(w,h)//3, 60+20*k, -1)
    return g
def agree(found, true, iou=.8): return len(found)==len(true) and all(panel_hits([a],[b],iou) for a,b in zip(found,true))

@pytest.fixture(scope='module')
def pages(): return [World(0).page(i, size=(600,425)) for i in range(20)]

# ---- constructed pages
def test_grid(): assert agree(panels(drawn()), grid)
def test_left_to_right(): assert agree(panels(drawn(),right_to_left=False), [grid[k] for k in (1,0,3,2,4)])

@pytest.mark.parametrize('turn', (-3,-1,1,2.5))
def test_rotated_scan(turn):
    m = cv2.getRotationMatrix2D((210,300), turn, 1.)
    found = panels(cv2.warpAffine(drawn(), m, (420,600), borderValue=255, flags=cv2.INTER_AREA))
    assert agree(found, grid, .7)

@pytest.mark.parametrize('tint', ((250,235,190),(200,200,200),(190,210,255)))
def test_colour_cast(tint):
    rgb = (drawn()[...,None]*(np.array(tint)/255)).astype(np.uint8)
    assert agree(panels(rgb), grid)

def test_one_bit_tiff(tmp_path):
    Image.fromarray(drawn()).convert('1').save(tmp_path/'page.tiff')
    assert agree(panels(tmp_path/'page.tiff'), grid)

def test_huge_scan():
    g = cv2.resize(drawn(), (5000,7143), interpolation=cv2.INTER_NEAREST); k = 5000/420
    assert agree(panels(g), [tuple(v*k for v in b) for b in grid])

def test_black_gutters(): assert agree(panels(255-drawn()), grid, .7)

def test_double_page():
    both = panels(np.hstack([drawn(),drawn()]))
    assert agree(both, [(x+420,*b) for x,*b in grid]+grid)
    assert agree(panels(np.hstack([drawn(),drawn()]),right_to_left=False)[:5], [grid[k] for k in (1,0,3,2,4)])

def test_wide_picture_is_one_panel():
    g = drawn([(10,10,800,400)],(420,820)); g[40:380,40:780:7] = 0
    g[200:206] = 0; g[:,300:500] = np.minimum(g[:,300:500],90)
    assert len(panels(g))==1

def strip(n, w, h, seed=0):
    "A strip of `n` framed panels one under another, and its boxes"
    g,rng = np.full((h*n,w),255,np.uint8),np.random.default_rng(seed); boxes = [(w//20,k*h+w//20,w*9//10,h-w//10) for k in range(n)]
    for x,y,a,b in boxes:
        cv2.rectangle(g, (x,y), (x+a-1,y+b-1), 0, max(2,w//150))
        for _ in range(5): cv2.circle(g, tuple(rng.integers((w//4,y+h//4),(3*w//4,y+3*h//5)).tolist()), h//9, int(rng.integers(40,160)), -1)
    return g,boxes

@pytest.mark.parametrize('n,h', ((3,400),(10,400),(20,400),(85,110)))
def test_strip(n, h):
    g,boxes = strip(n, 400, h)
    assert agree(panels(g), boxes)

@pytest.mark.parametrize('size', ((3000,40),(4000,32),(6000,64),(40000,32),(32,40000),(40,960),(768,32),(35,32),(32,36)), ids=str)
def test_thin_pages(size):
    "Neither crash nor leave the page; what is longer than 24 widths stays whole"
    h,w = size; noise = np.random.default_rng(0).integers(0,256,size).astype(np.uint8); framed = np.full(size,255,np.uint8)
    for k in range(0,max(size),min(size)): cv2.rectangle(framed, ((k+3,3) if w>h else (3,k+3)), ((k+28,28) if w>h else (28,k+28)), 0, 2)
    for g in (np.zeros(size,np.uint8),noise,framed):
        found = panels(g)
        assert found and all(x>=0 and y>=0 and a>0 and b>0 and x+a<=w and y+b<=h for x,y,a,b in found)
        assert max(size)<=24*min(size) or found==[(0,0,w,h)]

def test_many_cuts():
    "Scores of cuts in the longest strip that is cut are no deep recursion"
    g = np.full((768,32),255,np.uint8)
    for y in range(3,760,9): cv2.rectangle(g, (4,y), (27,y+5), 0, -1)
    assert len(panels(g))>60

@pytest.mark.parametrize('value', (0,128,255))
def test_blank(value): assert panels(np.full((300,200),value,np.uint8))==[(0,0,200,300)]

def test_balloon_across_a_gutter():
    g = drawn(); cv2.ellipse(g, (210,110), (40,38), 0, 0, 360, 255, -1); cv2.ellipse(g, (210,110), (40,38), 0, 0, 360, 0, 2)
    assert agree(panels(g), grid, .7)

def test_slanted_gutter():
    g = np.full((600,420),255,np.uint8)
    for q in ([(20,20),(400,20),(400,250),(20,290)],[(20,310),(400,270),(400,580),(20,580)]):
        cv2.polylines(g, [np.array(q)], True, 0, 3); cv2.circle(g, tuple(np.mean(q,0).astype(int).tolist()), 60, 90, -1)
    assert agree(panels(g), [(20,20,380,270),(20,270,380,310)])

def test_bleed():
    g = drawn([(-5,-5,430,300),(20,320,380,260)]); g[:290][g[:290]==255] = 215
    assert agree(panels(g), [(0,0,420,295),(20,320,380,260)])

def test_inset():
    g = drawn([(20,20,380,560)]); cv2.rectangle(g, (50,400), (180,520), 255, -1)
    g[30:400:4,40:390:4] = 0; g[410:510,60:170] = 120; cv2.rectangle(g, (60,410), (170,510), 0, 2)
    assert agree(panels(g), [(20,20,380,560),(59,409,112,102)])

@pytest.mark.parametrize('bad', (np.zeros((8,8),np.uint8), np.zeros((40,40),float), np.zeros((40,40,2),np.uint8), np.zeros((0,40),np.uint8)))
def test_bad_pages(bad):
    for f in (panels,balloons,descreen):
        with pytest.raises(ValueError, match='expected'): f(bad)

def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError): panels(tmp_path/'none.png')

def test_page_is_left_alone(pages):
    g = pages[0].bw.copy(); panels(g); balloons(g); descreen(g)
    assert (g==pages[0].bw).all()

def test_head_and_balloon_out_of_the_frame():
    "What sticks out of a frame neither moves it nor hides the gutter"
    g = drawn([(220,80,180,180),(20,80,180,180),(20,280,380,300)])
    cv2.circle(g, (110,80), 50, 255, -1); cv2.circle(g, (110,80), 50, 0, 2)
    cv2.ellipse(g, (210,150), (45,50), 0, 0, 360, 255, -1); cv2.ellipse(g, (210,150), (45,50), 0, 0, 360, 0, 2)
    for x in (190,205,220):
        for y in range(120,180,12): g[y:y+8,x:x+7:2] = 0
    assert agree(panels(g), [(220,80,180,180),(20,80,180,180),(20,280,380,300)], .85)

def test_steep_gutter():
    g = np.full((600,420),255,np.uint8)
    for q in ([(20,20),(400,20),(400,180),(20,350)],[(20,370),(400,200),(400,580),(20,580)]): cv2.polylines(g, [np.array(q)], True, 0, 3)
    assert agree(panels(g), [(20,20,380,330),(20,200,380,380)], .9)

def test_black_panel_with_a_balloon_is_one():
    g = drawn([(20,20,380,270),(20,310,380,270)]); g[312:578,22:398] = 0
    cv2.ellipse(g, (210,445), (50,140), 0, 0, 360, 255, -1)
    assert agree(panels(g), [(20,20,380,270),(20,310,380,270)], .9)

def test_tiers_before_columns():
    "A level gutter on one side of a tall panel does not cut the tall panel"
    g = drawn([(20,20,180,270),(20,310,180,270),(215,20,185,560)]); g[150:450:5,240:380:3] = 0
    assert agree(panels(g), [(215,20,185,560),(20,20,180,270),(20,310,180,270)], .85)

# ---- gutters
def test_best_cuts():
    paper,ink = paper_and_ink(drawn([(20,20,380,270),(20,310,380,270)])); tables = cut_tables(paper, ink, hush(paper,ink))
    rating,level,at,slope = best_cuts(tables, np.array([(15.,15),(405,15),(405,585),(15,585)]), 420)[0]
    assert rating>.9 and level and abs(at[1]-300)<8 and slope==0
    assert best_cuts(tables, np.array([(15.,15),(30,15),(30,30)]), 420)==[]

def test_lettering_is_hushed():
    g = np.full((600,420),255,np.uint8); g[:,:200] = 120
    cv2.ellipse(g, (300,200), (50,70), 0, 0, 360, 0, 2)
    for y in range(150,250,14): g[y:y+9,285:294:2] = g[y:y+9,305:314:2] = 0
    mask = hush(*paper_and_ink(g))
    assert mask[200,300] and mask[200,260] and not mask[200,100] and not mask[400,300] and not hush(*paper_and_ink(np.full((60,60),255,np.uint8))).any()

# ---- World pages
def test_world_pages(pages):
    found = [panels(p.bw) for p in pages]
    assert panel_f1(found, [p.panels for p in pages])>.9
    for f in found:
        for x,y,w,h in f: assert x>=0 and y>=0 and w>0 and h>0 and x+w<=425 and y+h<=600 and all(type(v) is int for v in (x,y,w,h))

def test_found_panels_are_in_order(pages):
    "Where all panels are found, they come as the World tells them"
    right = whole = 0
    for p in pages:
        f = panels(p.bw)
        if len(f)!=len(p.panels) or panel_hits(f,p.panels)<len(f): continue
        whole += 1; right += agree(f, p.panels, .7)
    assert whole>=10 and right/whole>.9

def test_reading_order_of_layouts():
    right,rng = 0,np.random.default_rng(3)
    for k in range(100):
        boxes = [p.box((1200,850)) for p in layout(np.random.default_rng(k))]
        right += reading_order([boxes[i] for i in rng.permutation(len(boxes))])==boxes
    assert right>=85

def test_reading_order_keeps_boxes():
    rng = np.random.default_rng(0)
    for _ in range(50):
        boxes = [tuple(b) for b in rng.integers(1,300,(int(rng.integers(0,9)),4)).tolist()]
        assert sorted(reading_order(boxes))==sorted(boxes)==sorted(reading_order(boxes,False))

def test_benchmark(monkeypatch):
    "Pages by the seconds between two looks at the clock, also when it stands still"
    blank = np.full((64,48),255,np.uint8); clock = iter([1.,1.5,2.,2.])
    monkeypatch.setattr(panels_module,'process_time',lambda: next(clock))
    assert panels_benchmark([blank]*3)==6 and panels_benchmark([blank])>1e6

# ---- scores
def test_f1():
    a,b = (0,0,10,10),(50,50,10,10)
    assert panel_f1([[a,b]],[[b,a]])==1 and panel_f1([[]],[[a]])==0 and panel_f1([],[])==1
    assert panel_f1([[a],[b]],[[a],[a]])==.5 and panel_hits([a,a,a],[a])==1
    assert panel_hits([(0,0,10,10)],[(0,0,10,7)],.7)==1 and panel_hits([(0,0,10,10)],[(0,0,10,6)],.7)==0

# ---- balloons
@pytest.mark.parametrize('sides,said', [((9,9,9,9),True), ((9,9,20),False), ((6,9,20,12),False)], ids=['letters','two eyes and a mouth','a face'])
def test_a_rough_outline_needs_even_letters(sides, said):
    t = np.linspace(0,2*np.pi,25)[:-1]; r = 50+22*(np.arange(24)%2)
    full = cv2.fillPoly(np.zeros((150,150),np.uint8), [np.int32(np.c_[75+r*np.cos(t),75+r*np.sin(t)])], 1); white = full.copy()
    for k,side in enumerate(sides): white[68:68+side,45+14*k:45+14*k+min(side,12)] = 0
    assert speaks(white, full, 1200)==said
def test_world_balloons():
    pages = [World(0).page(i) for i in range(4)]; masks = [balloons(p.bw) for p in pages]
    both = sum((m&p.balloons).sum() for p,m in zip(pages,masks))
    assert both/sum(p.balloons.sum() for p in pages)>.9 and both/sum(m.sum() for m in masks)>.9

def test_balloon_needs_text():
    g = np.full((600,420),150,np.uint8)
    for x in (110,310): cv2.ellipse(g, (x,200), (70,90), 0, 0, 360, 255, -1)
    for y in range(150,250,20):
        for x in (90,115): g[y:y+12,x:x+12:3] = 0; g[y:y+12:5,x:x+12] = 0
    m = balloons(g)
    assert m.dtype==bool and m.shape==g.shape and m[200,110] and m[200,60] and not m[200,310] and not m[500,200]

@pytest.mark.parametrize('value', (0,128,255))
def test_no_balloons(value): assert not balloons(np.full((300,200),value,np.uint8)).any()

# ---- screentone
@pytest.mark.parametrize('dark', (.1,.3,.5,.65))
@pytest.mark.parametrize('period', (4.,6.,8.))
def test_flat_tone(dark, period):
    flat = halftone(np.full((160,160),dark,np.float32), screen((160,160),'dots',period)); out = descreen(flat,period)[30:-30,30:-30].astype(float)
    assert abs(out.mean()-flat.mean())<12 and out.std()<flat.std()/3

@pytest.mark.parametrize('period', (4.,6.,9.))
def test_period(period): assert abs(dot_period(halftone(np.full((200,200),.2,np.float32),screen((200,200),'dots',period)))-period)<.6

def test_lines_stay():
    g = halftone(np.full((160,160),.2,np.float32), screen((160,160),'dots',5.)); g[78:81] = 0; g[:,40:43] = 0
    out = descreen(g)
    assert out[79,20:-20].mean()<30 and out[20:-20,41].mean()<30 and strokes(g,5.)[79,80] and toned(g,5.)[120,120]

def test_no_tone_no_change():
    g = drawn()
    assert dot_period(g) is None and (descreen(g)==g).all()
    with pytest.raises(ValueError, match='at least 2'): descreen(g, period=0)

# ---- forms
def test_read_page_and_reduced(tmp_path):
    g = drawn(); Image.fromarray(g).save(tmp_path/'a.png')
    for form in (g, np.repeat(g[...,None],3,2), Image.fromarray(g), tmp_path/'a.png', str(tmp_path/'a.png')): assert (read_page(form)==g).all()
    small,k = reduced(g,300); assert small.shape==(300,210) and k==.5
    for size,copy in (((8000,800),(2000,200)),((800,8000),(200,2000)),((4000,100),(4000,100)),((7143,5000),(520,364))):
        assert reduced(np.zeros(size,np.uint8))[0].shape==copy
    assert reduced(g,2000)[1]==1

# ---- real pages
def test_real_pages(art):
    truth = json.loads((art/'manga'/'boxes.json').read_text(encoding='utf-8'))
    names = [n for n in sorted(truth) if n.startswith('bw')]
    found = [panels(art/'manga'/n) for n in names]
    true = [[tuple(b[k] for k in 'xywh') for b in truth[n]['frames']] for n in names]
    assert len(names)==10 and panel_f1(found,true)>=.85

def test_real_balloons(art):
    truth = json.loads((art/'manga'/'boxes.json').read_text(encoding='utf-8')); inside = text = 0; silent = []
    for n in sorted(truth):
        if not n.startswith('bw'): continue
        m = balloons(art/'manga'/n)
        number = cv2.connectedComponents(m.astype(np.uint8))[1]; said = {0}
        for x,y,w,h in [[b[k] for k in 'xywh'] for b in truth[n]['text']]:
            part = np.s_[y:y+h,x:x+w]; inside += m[part].sum(); text += m[part].size
            said |= {*number[part].ravel().tolist()}
        silent += [k not in said for k in range(1,number.max()+1)]
    assert inside/text>.75 and np.mean(silent)<.12

"Consistency: what cannot win, what the numbers mean, chapters, tables"
import cv2,numpy as np,pytest
from manga_colorize.world.artist import World
from manga_colorize.evaluate.adherence import rgb_to_lab
from manga_colorize.chapters.benchmark import ChapterScores,compare_chapters,told_nothing
from manga_colorize.chapters.consistency import (Region,Spread,as_dark,black,check_pictures,colors_of,consistency,day_chapter,hues_by_tone,hues_turned,
                                                 in_daylight,in_one_light,regions,spread,tones_of)

SMALL = 420,297

@pytest.fixture(scope='module')
def chapter(): return day_chapter(World(31), 2, n=3, size=SMALL)
def twin(chapter): return [p.color for p in chapter]
def repaint(chapter, color_of):
    "Fill each region with a colour"
    out = [p.color.copy() for p in chapter]
    for k,r in enumerate(regions(chapter,0)): out[r.page][r.where] = color_of(k,r)
    return out

# ---- what cannot win
@pytest.mark.parametrize('rgb', [(128,128,128),(230,210,170),(255,255,255),(0,0,0),(200,30,60)])
def test_one_colour_has_ratio_1(chapter, rgb):
    m = consistency(chapter, [np.full_like(p.color,rgb) for p in chapter])
    assert abs(m.ratio-1)<1e-6 and m.error>8

@pytest.mark.parametrize('tint', [(1,1,1),(1,.85,.62),(.6,.7,1)])
def test_a_tint_cannot_win(chapter, tint):
    "Neither on the print nor on the twin without its colours"
    for base in ([p.bw for p in chapter],[cv2.cvtColor(p.color,cv2.COLOR_RGB2GRAY) for p in chapter]):
        assert consistency(chapter, [(g[...,None]*np.array(tint)).round().astype(np.uint8) for g in base]).ratio>.7

def test_the_twin_is_best_and_chance_is_not(chapter):
    rng = np.random.default_rng(0)
    chance = consistency(chapter, repaint(chapter, lambda k,r: rng.integers(0,256,3)))
    true = consistency(chapter, twin(chapter))
    assert true.ratio<.5 and true.error==0 and chance.ratio>.8 and chance.error>20

def test_perfect_painter(chapter):
    "One colour for each part of each person is as consistent as can be; its error still counts"
    palette = {}
    rng = np.random.default_rng(1)
    color = lambda k,r: palette.setdefault((r.who,r.part), rng.integers(40,256,3))
    m = consistency(chapter, repaint(chapter, color))
    assert m.within<1e-6 and m.between>15 and m.ratio<.15 and m.error>20

def test_one_for_all_within_a_part(chapter):
    "Everyone has the same hair: no spread between, so the ratio is 1"
    m = consistency(chapter, repaint(chapter, lambda k,r: dict(hair=(90,160,90),skin=(240,200,170),outfit=(60,60,200))[r.part]))
    assert abs(m.ratio-1)<1e-6

def test_hues_by_tone_cost_much(chapter):
    "Tones tell some people apart, so this cheat gets below 1; it does not come near the twin, and its error is large"
    m,true = consistency(chapter,hues_by_tone([p.bw for p in chapter])),consistency(chapter,twin(chapter))
    assert m.ratio>true.ratio+.1 and m.error>20

def test_the_painter_does_not_choose_the_weights(chapter):
    "However light he paints, pairs weigh by their print"
    found = regions(chapter); tones = tones_of(found,[p.bw for p in chapter]); c = colors_of(found,twin(chapter)); light = in_one_light(c)
    assert spread(found,c,tones)==spread(found,light,tones)

def test_hues_turned(chapter):
    assert all(cv2.absdiff(a,p.color).mean()<3 for a,p in zip(hues_turned(chapter,0),chapter))
    a,b = (hues_turned(chapter,1,s) for s in (0,1))
    assert not np.array_equal(a[0],b[0]) and np.array_equal(a[0],hues_turned(chapter)[0])

# ---- parts of the number
def test_in_one_light_forgets_how_much_light():
    light = np.linspace(.05,1,20)[:,None]*np.array([.9,.5,.2])
    srgb = (255*np.where(light>.0031308, 1.055*light**(1/2.4)-.055, 12.92*light)).round().astype(np.uint8)
    assert np.ptp(in_one_light(rgb_to_lab(srgb)),0).max()<2.5
    assert in_one_light(np.zeros((2,5,3))).shape==(2,5,3)

def region(page, who, part='hair'): return Region(page,0,who,part,(np.arange(1),)*2)
def test_spread_by_hand():
    lab = np.array([[50,40,0],[50,40,0],[50,-40,0],[50,-40,0]],float)
    s = spread([region(0,1),region(1,1),region(0,2),region(1,2)], lab)
    assert s.within==0 and s.between>30 and s.ratio==pytest.approx(2/(s.between+2))
def test_spread_needs_people():
    with pytest.raises(ValueError, match='expected two people'): spread([region(0,1),region(1,1)], np.zeros((2,3)))
    with pytest.raises(ValueError, match='expected two people'): spread([region(0,1),region(0,2)], np.zeros((2,3)))

def test_regions(chapter):
    found = regions(chapter)
    assert found and {r.part for r in found}<={'hair','skin','outfit'}
    for r in found:
        page = chapter[r.page]; x,y,w,h = page.panels[r.panel]
        assert set(page.identities[r.where].tolist())=={r.who+1} and not page.balloons[r.where].any()
        assert r.where[0].min()>=y and r.where[0].max()<y+h and r.where[1].min()>=x and r.where[1].max()<x+w
    assert colors_of(found,twin(chapter)).shape==(len(found),3)
    assert len(regions(chapter,.2))<len(found)

def test_wrong_pictures(chapter):
    for bad in (twin(chapter)[:2], [c[:-1] for c in twin(chapter)], [c[...,0] for c in twin(chapter)]):
        with pytest.raises(ValueError, match='expected pictures'): consistency(chapter, bad)

def test_floats_are_refused(chapter):
    with pytest.raises(ValueError, match='uint8, got float64'): consistency(chapter, [c/255 for c in twin(chapter)])
    check_pictures(twin(chapter), [p.bw for p in chapter])

def test_as_dark():
    assert as_dark(5,5)==pytest.approx(1) and as_dark(0,30)==pytest.approx(np.exp(-1)) and as_dark(0,255)>0

# ---- chapters
def test_a_chapter_that_cannot_be_drawn_ends(chapter):
    class Night:
        seed = 0
        def character(self, k): return chapter[0].characters[0]
        def page(self, *args): return chapter[0]
    with pytest.raises(ValueError, match='expected pages by day'): day_chapter(Night(), 0, n=1, people=99, size=SMALL)

def test_day_chapters_are_by_day_and_again_the_same(chapter):
    again = day_chapter(World(31), 2, n=2, size=SMALL)
    assert all(map(in_daylight,chapter)) and all(np.array_equal(a.color,b.color) for a,b in zip(again,chapter))
    assert len({p.style for p in chapter})==1

def test_table():
    row = dict(pages=2, ratio=.5, error=9., within=3., between=8., matched=float('nan'))
    s = ChapterScores([dict(painter='a|b',chapter=k,**row) for k in range(2)], 'so made')
    assert 'a|b' in repr(s) and 'a/b' in s._repr_markdown_() and 'so made' in repr(s) and s.rows[0]['pages']==4 and s.rows[0]['ratio']['error']==0

def test_what_is_missing_is_left_out():
    row = dict(painter='a', pages=2, ratio=.5, error=9., within=3., between=8.)
    s = ChapterScores([dict(row,chapter=0,matched=None),dict(row,chapter=1,matched=.6)])
    assert s.rows[0]['matched']==dict(mean=.6,error=None) and 'nan' not in repr(s)
    assert ChapterScores([dict(row,chapter=0,matched=None)]).table()[1][-1]=='–'

@pytest.mark.parametrize('kw', [dict(n=0),dict(pages=0),dict(n=-1)])
def test_nothing_to_compare(kw):
    with pytest.raises(ValueError, match='expected 1 or more'): compare_chapters({}, World(31), **{'n':1,'pages':1,**kw})

def test_nobody_returns(chapter, monkeypatch):
    from manga_colorize.chapters import benchmark as chapters
    monkeypatch.setattr(chapters, 'day_chapter', lambda *args,**kw: [chapter[0]]*2)
    def nobody(*args): raise ValueError('expected two people')
    monkeypatch.setattr(chapters, 'consistency', nobody)
    with pytest.raises(ValueError, match='expected people who return'): compare_chapters({}, World(31), n=1, pages=1, size=SMALL)

def test_compare_counts_the_later_pages():
    seen,lines = [],[]
    def grey(prints, first): seen.append((len(prints),first.color.shape)); return [np.repeat(p[...,None],3,2) for p in prints]
    s = compare_chapters({'grey':grey}, World(31), n=1, pages=2, size=SMALL, seen=lines.append)
    assert seen==[(2,(*SMALL,3))] and [r['painter'] for r in s.rows]==['the twin','grey'] and len(lines)==2
    assert s.rows[0]['error']['mean']==0 and s.rows[1]['ratio']['mean']==pytest.approx(1,abs=.01)

def test_told_nothing_gives_empty_cues():
    cues = []
    def paint(sketch, cue): cues.append(cue[...,3].max()); return np.repeat(sketch[...,None],3,2)
    page = World(5).page(3, size=SMALL)
    assert told_nothing(paint)([page.bw],page)[0].shape==(*SMALL,3) and set(cues)=={0}

"Real or painted? Trials, statistics, players, files, and the view without a browser"
import json,math,re,shutil

import numpy as np,pytest
from manga_colorize.core import over_white
from manga_colorize.cues.blur import blur_cue
from manga_colorize.studio.turing import *
from manga_colorize.studio.turing import _pictures

def flat(i, size=16): return np.full((size,size,3), i, np.uint8)
pairs = [(flat(i), flat(100+i)) for i in range(40)]

@pytest.mark.parametrize('n', [1,2,7,20,53,200])
@pytest.mark.parametrize('confidence', [.5,.9,.95,.999])
def test_wilson_is_scipys(n, confidence):
    from scipy.stats import binomtest
    for k in range(n+1):
        want = binomtest(k, n).proportion_ci(confidence, method='wilson')
        assert np.allclose(wilson(k, n, confidence), (want.low,want.high), atol=1e-9)

def test_wilson_of_nothing_and_everything():
    assert np.allclose(wilson(0, 0), (0,1))
    for n in (1,10,10**6): assert wilson(0, n)[0]<1e-9 and wilson(n, n)[1]>1-1e-9
    assert np.allclose(wilson(3, 20), [1-x for x in wilson(17, 20)[::-1]])

@pytest.mark.parametrize('n', [0,1,2,5,20,61])
def test_coin_is_scipys(n):
    from scipy.stats import binomtest
    for k in range(n+1): assert math.isclose(coin_p(k, n), binomtest(k, n).pvalue if n else 1, rel_tol=1e-9)

@pytest.mark.parametrize('bad', [(3,2), (-1,2), (1,0)])
def test_impossible_counts(bad):
    for f in (wilson, coin_p):
        with pytest.raises(ValueError, match='expected 0 to n'): f(*bad)

@pytest.mark.parametrize('seed', range(5))
def test_each_pair_once_sides_even(seed):
    trials = draw_trials(pairs, 5, 9, seed)
    assert sorted(t.pair for t in trials)==[*range(40)] and [t.kind for t in trials[:5]]==['practice']*5
    for kind,n in (('practice',5), ('catch',9), ('test',26)):
        sides = [t.real for t in trials if t.kind==kind]
        assert len(sides)==n and abs(2*sides.count('left')-n)<=1
    kinds = [t.kind for t in trials[5:]]
    assert kinds!=sorted(kinds) and kinds!=sorted(kinds)[::-1]

def test_pictures_stand_where_the_trial_says():
    for t in draw_trials(pairs):
        other = {'left':'right','right':'left'}[t.real]
        real,painted = pairs[t.pair]
        assert (getattr(t,t.real)==real).all()
        assert (getattr(t,other)==(over_white(blur_cue(real)) if t.kind=='catch' else painted)).all()

def test_same_seed_same_trials():
    key = lambda seed: [(t.kind,t.pair,t.real) for t in draw_trials(pairs, seed=seed)]
    assert key(3)==key(3)!=key(4)

def test_sides_cannot_be_foretold():
    "The side that was real last says little about the next one"
    series = [draw_trials(pairs, seed=seed) for seed in range(60)]
    hits = [a.real==b.real for ts in series for a,b in zip(ts, ts[1:])]
    assert abs(np.mean(hits)-.5)<.05

@pytest.mark.parametrize('args', [(40,0), (30,10), (-1,2), (2,-1)])
def test_too_many_trials(args):
    with pytest.raises(ValueError, match='expected more pairs'): draw_trials(pairs, *args)

def test_any_pictures_do(tmp_path):
    from PIL import Image
    Image.fromarray(flat(9)).save(tmp_path/'a.png')
    t, = draw_trials([(tmp_path/'a.png', Image.fromarray(flat(7)[...,0]))], 0, 0)
    assert {int(t.left[0,0,0]),int(t.right[0,0,0])}=={7,9}
    with pytest.raises(ValueError, match='expected two pictures of one size in pair 0'): draw_trials([(flat(1), flat(1,8))], 0, 0)

def test_a_guesser_passes_the_catch_trials_in_9_of_256():
    rng,passed = np.random.default_rng(0),0
    for _ in range(2000): passed += (rng.random(8)<.5).sum()<=1
    assert abs(passed/2000-9/256)<.015

@pytest.mark.parametrize('see', [0,.3,.8,1])
def test_a_player_of_known_eyesight_is_measured(see):
    "The interval holds the true rate; 300 trials are enough to see that"
    rng = np.random.default_rng(7); many = [(flat(i%100,4), flat(100+i%100,4)) for i in range(312)]
    look = lambda l,r: 'left' if l.mean()<r.mean() else 'right'
    def player(l, r):
        glaring = abs(l.astype(int)-r).mean()<50   # a flat picture's cue is itself, so the catch trials are known by that
        return look(l,r) if not glaring and rng.random()<see else 'left' if rng.random()<.5 else 'right'
    s = play(TuringTest(many), player)
    assert s.n==300 and s.interval[0]<=(1-see)/2<=s.interval[1]

def test_practice_and_catch_do_not_count():
    test = TuringTest(pairs)
    while not test.done:
        t = test.trial; wrong = {'left':'right','right':'left'}[t.real]
        said = test.answer(t.real if t.kind=='test' else wrong)
        assert said is (False if t.kind=='practice' else None)
    assert (test.score.n,test.score.fooled,test.score.n_catch,test.score.missed)==(28,0,8,8) and not test.score.attentive

def test_words():
    assert 'can tell painted from real' in str(Score(20,2,8,0)) and 'nobody checked' not in str(Score(20,2,8,0))
    assert 'does not tell the player from a coin' in str(Score(20,7,8,0))
    assert 'takes the painted ones for real' in str(Score(20,18,8,0))
    assert '2 of 8 catch trials were missed' in str(Score(20,10,8,2)) and 'nobody checked' in str(Score(20,2))
    assert 'No test trial' in str(tally([]))

def test_answers_travel(tmp_path):
    test = TuringTest(pairs, player='Zoë 色', seed=5)
    for i in range(7): test.answer('right', i/2)
    path = test.save(tmp_path/'deep'/'answers.jsonl')
    assert b'\r' not in path.read_bytes() and [json.loads(l) for l in path.read_text(encoding='utf-8').splitlines()]==test.answers
    assert load_answers(path, path)==test.answers*2 and tally(load_answers(path))==test.score

@pytest.mark.parametrize('line', ['', 'x', '[]', '{"kind":"test"}', '3'])
def test_damaged_answers(tmp_path, line):
    (tmp_path/'a').write_text(line+'\n', encoding='utf-8')
    with pytest.raises(ValueError, match='expected an answer in line 1'): load_answers(tmp_path/'a')

def test_bad_answers_change_nothing():
    test = TuringTest(pairs[:13])
    for bad in ('LEFT', None, 0, ''):
        with pytest.raises(ValueError, match="expected 'left' or 'right'"): test.answer(bad)
    assert test.answers==[]
    play(test, lambda l,r: 'left')
    with pytest.raises(ValueError, match='expected no answer'): test.answer('left')

def test_a_painter_that_fails_is_not_hidden():
    def broken(sketch, cue): raise RuntimeError('out of paint')
    with pytest.raises(RuntimeError, match='out of paint'): world_pairs(broken, 1, size=32)

def test_world_pairs_are_the_same_again():
    wash = lambda sketch,cue: cue[...,:3]
    a,b = (world_pairs(wash, 2, size=32, first=5) for _ in range(2))
    assert all((x==y).all() for p,q in zip(a,b) for x,y in zip(p,q))

def test_view_plays_to_the_end(tmp_path):
    pytest.importorskip('ipywidgets')
    view = TuringCorner(TuringTest(pairs), path=tmp_path/'a.jsonl', pause=0)
    while not view.test.done:
        assert view.pictures.value.count('<img')==2 and 'catch' not in view.head.value
        assert view.head.value.startswith(('Practice','Right. Practice','Right. Trial','Trial'))
        view.buttons[view.test.trial.real].click()
    assert 'in 0 of 28 trials' in view.pictures.value and all(b.disabled for b in view.buttons.values())
    assert len(load_answers(tmp_path/'a.jsonl'))==40
    view.click('left'); assert len(view.test.answers)==40

def test_page_does_not_tell():
    "Apart from the pixels, the two sides are alike whichever is real"
    pytest.importorskip('ipywidgets')
    pages = {t.real:TuringCorner(TuringTest(pairs, seed=s)).pictures.value for s in range(8) for t in [draw_trials(pairs, seed=s)[0]]}
    assert len({re.sub('base64,[^"]*', '', page) for page in pages.values()})==1 and len(pages)==2

def test_hasty_clicks_are_ignored():
    pytest.importorskip('ipywidgets')
    view = TuringCorner(TuringTest(pairs), seconds=1)
    view.buttons['left'].click(); assert not view.test.answers
    view.began -= .7; view.buttons['left'].click(); assert not view.test.answers
    view.began -= .2; view.buttons['left'].click(); assert len(view.test.answers)==1 and view.test.answers[0]['seconds']>=.8

@pytest.mark.parametrize('seconds', [None,.5,2])
def test_the_browser_keeps_the_time(seconds):
    "Hidden for half a second, shown for as long as asked, hidden again; the clock of the animation is set by hand"
    playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed: no browser tests')
    chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if not chromium: pytest.skip('Chromium is not installed: no browser tests')
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=['--no-sandbox','--disable-gpu','--disable-dev-shm-usage'])
        page = browser.new_page(); page.set_content(_pictures(draw_trials(pairs)[0], seconds, 64))
        seen = page.evaluate("""times => [...document.querySelectorAll('img')].map(e => times.map(t => {
            for (const a of e.getAnimations()) { a.pause(); a.currentTime = t; }
            return getComputedStyle(e).visibility === 'visible'; }))""", [0,490,510,500+1000*(seconds or 1)-10,500+1000*(seconds or 1)+10])
        widths = page.evaluate("[...document.querySelectorAll('img')].map(e => [e.naturalWidth, e.width])")
        browser.close()
    assert seen==[[True]*5 if seconds is None else [False,False,True,True,False]]*2 and widths==[[16,64]]*2

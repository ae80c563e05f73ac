"The cue painter without a browser: strokes, traits, threads, files, the page's server, the command"
import json,os,re,threading,time
from pathlib import Path

import httpx,numpy as np,pytest,torch
from PIL import Image

from children import Child,run_script
from fixtures import same
from manga_colorize.core import to_image
from manga_colorize.studio.paint_page import PaintPage,open_painter
from manga_colorize.studio.painter import CuePainter
from manga_colorize.studio.widget_parts import Latest,fitted_cue,pack
from manga_colorize.cues.stroke_data import Replay,check_strokes,empty_cue,line_mask,propose_strokes,region_mask,replay

RED = dict(tool='brush', color='#ff0000', size=10, points=[[10,10,.5],[30,10,.5]])

def flat(sketch, cue): return Image.fromarray(to_image(cue))

@pytest.fixture
def painter(): return CuePainter(np.full((48,64), 255, np.uint8), flat)

def until(f, seconds=30):
    end = time.monotonic()+seconds
    while not f():
        assert time.monotonic()<end, 'waited in vain'
        time.sleep(.01)

# ---- strokes
@pytest.mark.parametrize('size', (1,2,5,20,61))
def test_a_dot_has_the_area_of_its_disc(size):
    l,t,mask = line_mask([[50,50]], size, (100,100))
    assert abs(mask.sum()/255-np.pi*size**2/4) < .06*size**2+.4 and mask.shape[0]<=size+5

@pytest.mark.parametrize('p,factor', ((0,.5),(.5,1),(1,1.5)))
def test_pressure_widens(p, factor): assert (line_mask([[50,50,p]], 40, (100,100))[2].sum()/255)**.5 == pytest.approx(np.sqrt(np.pi)*20*factor, rel=.01)

def test_a_stroke_does_not_darken_where_it_crosses_itself():
    cue = replay([dict(RED, opacity=.5, points=[[5,5],[55,40],[55,5],[5,40]])], np.full((48,64),255,np.uint8))
    assert cue[...,3].max()==128

def test_strokes_split_over_points_paint_the_same(): # as a mouse that reports more often
    few,many = [[0,20],[60,20]],[[x,20] for x in range(0,61,3)]
    assert np.array_equal(*(replay([dict(RED, points=p)], np.full((48,64),255,np.uint8)) for p in (few,many)))

def test_fill_keeps_to_its_region_whatever_the_gap():
    rng = np.random.default_rng(0)
    for _ in range(60):
        sketch = np.where(rng.random((40,50))<.12, 0, 255).astype(np.uint8); sketch[:,25] = 0
        for gap in (0,1,3,6):
            region = region_mask(sketch, 5.5, 20.2, gap)
            assert not region[:,25:].any() and not region[sketch==0].any()

def test_following_equals_replaying():
    rng,sketch = np.random.default_rng(1),np.full((30,40), 255, np.uint8); r,strokes = Replay(sketch, keep=3),[]
    for _ in range(60):
        if rng.random()<.4: strokes = strokes[:rng.integers(0,len(strokes)+1)]
        else: strokes = [*strokes,dict(tool=str(rng.choice(['brush','eraser','fill','clear','point'])), color='#%06x'%rng.integers(2**24),
                                       size=float(rng.uniform(1,20)), points=[rng.uniform(0,30,2).tolist()])]
        assert np.array_equal(r.follow(strokes), replay(strokes, sketch))

def test_rubbish_is_no_stroke():
    rng,junk = np.random.default_rng(2),[None,True,-1,1e9,float('nan'),float('inf'),'x','#12345','#12345g',[],{},[[]],[[1]],[['a','b']],[[1,2,3,4]],2**80]
    for _ in range(2000):
        s = dict(RED); s[str(rng.choice(['tool','color','size','opacity','points','gap']))] = junk[rng.integers(len(junk))]
        try: check_strokes([s])
        except ValueError as e: assert 'stroke 0: expected' in str(e); continue
        replay([s], np.full((8,8), 255, np.uint8)) # what passes can be painted

def test_proposals_lie_on_paper():
    sketch = np.full((90,120), 255, np.uint8); sketch[:,60] = 0; sketch[40] = 0
    for s in propose_strokes(sketch, ['#ff0000','#00ff00'], seed=3):
        (x,y,_), = s['points']; assert sketch[int(y),int(x)]==255
    assert len(propose_strokes(np.full((1,1), 255, np.uint8), ['#ff0000']))<=1

# ---- the widget's Python side
def test_traits_reach_the_browser(painter):
    painter.strokes = [RED]; painter.wait()
    state = painter.get_state()
    assert state['strokes']==[RED] and state['_result'][:2]==b'\xff\xd8' and state['_sketch']==pack(painter.canvas)
    assert 'cue' not in state and 'sketch' not in state and json.dumps(state['brush'])
    assert 'render' in state['_esm'] and '.cue-painter' in state['_css']

def test_a_stroke_from_the_browser_gets_its_answer(painter):
    painter.wait(); painter.set_state(dict(strokes=[RED], _asked=7)); painter.wait()
    assert painter._answered==7 and np.asarray(painter.result)[10,20].tolist()==[255,0,0] and not painter.busy

def test_latest_wins_while_the_model_is_slow():
    gate,begun,seen = threading.Event(),threading.Event(),[]
    def slow(sketch, cue): begun.set(); gate.wait(30); seen.append(int((cue[...,3]>0).sum())); return flat(sketch, cue)
    painter = CuePainter(np.full((48,64), 255, np.uint8), slow); begun.wait(30)
    for n in range(1,9): painter.set_state(dict(strokes=[dict(RED, points=[[5,5],[6*n,5]])], _asked=n))   # comes back at once
    assert painter.busy and painter.result is None
    gate.set(); painter.wait()
    assert len(seen)==2 and painter._answered==8 and seen[1]==(painter.cue[...,3]>0).sum()

def test_no_change_gets_lost_between_threads(painter):
    "300 strokes from the browser while the model answers: what the browser was told last is how things are"
    told = {}; painter.observe(lambda change: told.update({change['name']:change['new']}), ['busy','_answered','_result'])
    for n in range(1,301): painter.set_state(dict(strokes=[dict(RED, size=n%40)], _asked=n))
    painter.wait()
    assert told==dict(busy=False, _answered=300, _result=painter._result)

def test_saving_from_the_browser_spares_other_pictures(painter, tmp_path):
    "Three painters with one folder: three folders; saving twice writes into the same one"
    said = []
    for i in range(3):
        p = CuePainter(painter.sketch, folder=tmp_path/'painted'); p.send = lambda content, buffers=None: said.append(content['say'])
        for _ in range(2): p._do_save({}, [])
    assert [Path(s).name for s in said]==['painted','painted','painted-2','painted-2','painted-3','painted-3']
    again = CuePainter.load(tmp_path/'painted-2', folder=tmp_path/'painted-2'); again._do_save({}, []); assert again.folder==str(tmp_path/'painted-2')

def test_wait_gives_up():
    gate = threading.Event()
    painter = CuePainter(np.full((8,8), 255, np.uint8), lambda s,c: gate.wait(30) and flat(s,c))
    with pytest.raises(TimeoutError): painter.wait(.05)
    gate.set(); painter.wait()

@pytest.mark.parametrize('bad', (lambda s,c: 1/0, lambda s,c: None, lambda s,c: np.zeros((3,3,7),np.uint8), lambda s,c: np.full(s.shape, np.nan),
                                 lambda s,c: torch.full((3,8,8), float('nan'))))
def test_a_model_that_fails_keeps_the_strokes(painter, bad):
    painter.strokes = [RED]; old = painter.wait(); painter.paint = bad
    try: painter.wait()
    except RuntimeError as e: assert 'your strokes are kept' in str(e) and painter.error
    assert painter.strokes==[RED] and not painter.busy and painter._answered==painter._asked
    painter.paint = flat; assert np.array_equal(painter.wait(), old) and painter.error==''

def test_a_listener_that_fails_is_told_of(painter):
    painter.wait(); painter.on_result(lambda picture: 1/0); painter.strokes = [RED]
    with pytest.raises(RuntimeError, match='ZeroDivision'): painter.wait()

@pytest.mark.parametrize('sketch', (np.full((1,1),255,np.uint8), np.zeros((2,700),bool), Image.new('1',(9,5)), Image.new('LA',(9,5)),
                                    Image.new('RGBA',(9,5)), Image.new('I;16',(9,5)),
                                    np.full((2600,9),9,np.uint8), torch.zeros(1,6,7)))
def test_any_sketch(sketch):
    painter = CuePainter(sketch, flat); painter.strokes = [RED,dict(tool='fill', color='#00ff00', points=[[0,0]])]
    assert painter.wait().size==painter.canvas.shape[::-1] and max(painter.canvas.shape)<=1600

@pytest.mark.parametrize('bad', (np.full((4,4),np.nan), np.zeros((0,4),np.uint8), torch.full((1,4,4),3.), np.zeros((4,4,9),np.uint8)))
def test_no_sketch(painter, bad):
    with pytest.raises(ValueError, match='expected'): painter.sketch = bad
    assert painter.sketch.shape==(48,64)

@pytest.mark.parametrize('bad', (np.full((48,64,4),np.nan), np.zeros((48,64,4)), torch.full((4,48,64),float('nan')), torch.full((4,48,64),7.),
                                 np.zeros((0,0,4),np.uint8)))
def test_no_cue(painter, bad):
    painter.strokes = [RED]
    with pytest.raises(ValueError, match='expected'): painter.cue = bad
    assert painter.strokes==[RED]

@pytest.mark.parametrize('shape', ((24,32),(96,128),(7,200)))
def test_a_cue_of_another_size_keeps_its_points(painter, shape):
    cue = empty_cue(shape); cue[shape[0]//2,shape[1]//2] = (0,0,255,255)
    painter.cue = cue
    blue = (painter.cue==[0,0,255,255]).all(-1)
    assert blue.any() and painter.strokes==[] and np.array_equal(fitted_cue(cue,(48,64)), painter.cue)

def test_a_large_page_is_painted_small_and_saved_whole(tmp_path):
    painter = CuePainter(np.full((900,600), 255, np.uint8), flat, side=300)
    painter.strokes = [dict(RED, size=90, points=[[300,450]])]
    assert painter.wait().size==(200,300) and painter.cue[150,100].tolist()==[255,0,0,255]
    painter.save(tmp_path/'a')
    assert Image.open(tmp_path/'a'/'result.png').size==(600,900)==Image.open(tmp_path/'a'/'sketch.png').size
    assert np.array_equal(CuePainter.load(tmp_path/'a').cue, painter.cue)

def test_a_full_disk_leaves_the_last_good_files(painter, tmp_path, monkeypatch):
    painter.save(tmp_path/'a'); before = {p.name:p.read_bytes() for p in (tmp_path/'a').iterdir()}
    painter.strokes = [RED]; painter.wait()
    def full(*args, **kwargs): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(Path, 'write_text', full)
    with pytest.raises(OSError): painter.save(tmp_path/'a')
    assert all(same(p.read_bytes(), before.pop(p.name)) for p in (tmp_path/'a').iterdir()) and not before

def test_strokes_from_elsewhere_are_checked(painter, tmp_path):
    painter.strokes = [RED]; painter.save(tmp_path/'a'); f = tmp_path/'a'/'strokes.json'; about = json.loads(f.read_text())
    for change in (dict(strokes=[dict(tool='x')]), dict(strokes='abc'), dict(format=2)):
        f.write_text(json.dumps({**about,**change}))
        with pytest.raises(ValueError, match='expected'): CuePainter.load(tmp_path/'a')

# ---- the page and the command
def test_pages_do_not_hear_themselves(painter):
    with PaintPage(painter) as house, httpx.Client(base_url=f'http://127.0.0.1:{house.port}', headers={'X-Token':house.token}) as web:
        news = lambda after,me: web.get('/changes', params=dict(after=after,me=me)).json()
        v = news(0,'a')['version']
        web.post('/send', json=dict(me='a', state=dict(strokes=[RED], _asked=1))); painter.wait()
        until(lambda: '_answered' in news(v,'a')['values'])
        assert 'strokes' not in news(v,'a')['values'] and news(v,'b')['values']['strokes']==[RED]

def test_the_door_is_closed_to_strangers(painter):
    with PaintPage(painter) as house:
        at = f'http://127.0.0.1:{house.port}'
        page = httpx.get(house.url); assert page.status_code==200 and "default-src 'none'" in page.headers['content-security-policy'] and 'access-control-allow-origin' not in page.headers
        for path in ('/','/cue_painter.js','/changes?after=0','/?token=','/?token='+house.token[:-1],'/?token=ü'): assert httpx.get(at+path).status_code==403
        assert httpx.get(house.url, headers={'Host':'painter.example'}).status_code==403
        assert httpx.post(at+'/send', json=dict(state=dict(strokes=[RED])), headers={'Origin':'http://evil.example'}).status_code==403
        good = {'X-Token':house.token}
        for sent in (dict(state=dict(_sketch='x')), dict(state=dict(folder='/')), dict(state=dict(strokes=[{}])), dict(state=3), [], 3):
            assert httpx.post(at+'/send', json=sent, headers=good).status_code==400
        assert painter.strokes==[] and house.server.server_address[0]=='127.0.0.1'
    with pytest.raises(httpx.HTTPError): httpx.get(house.url)

def test_open_painter(painter, tmp_path):
    Image.fromarray(painter.sketch).save(tmp_path/'page.png')
    p = open_painter(tmp_path/'page.png', flat); assert Path(p.folder)==tmp_path/'page-painted'
    p.strokes = [RED]; p.save(p.folder)
    assert open_painter(p.folder).strokes==[RED] and Path(open_painter(p.folder).folder)==tmp_path/'page-painted'
    assert open_painter(tmp_path/'page.png', out=tmp_path/'x').folder==str(tmp_path/'x')

@pytest.fixture(scope='module')
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp('bin')/'manga-paint'
    path.write_text('import sys\nfrom manga_colorize.commands.start import paint\nsys.exit(paint())\n')
    return path

def test_command_explains_itself(script):
    code,out,err = Child(script.parent, run_script, str(script), '--help').end()
    assert code==0 and not err and '--model' in out and '[sketch]' in out
    code,_,err = Child(script.parent, run_script, str(script), 'none.png', '--model', 'nowhere').end()
    assert code==1 and err.startswith('manga-paint: expected') and 'Traceback' not in err

@pytest.mark.skipif(os.name=='nt', reason='Ctrl-C cannot be sent to one process there')
def test_command_serves_until_ctrl_c(script, tmp_path):
    from manga_colorize.colorizer.colorizer import Colorizer,build_model
    Colorizer(build_model(dict(arch='pix2pix', ni=4, ngf=2, n_down=2))).save(tmp_path/'model')
    Image.new('L',(40,30),255).save(tmp_path/'page.png')
    p = Child(tmp_path, run_script, str(script), str(tmp_path/'page.png'), '--model', str(tmp_path/'model'), '--quiet')
    url = re.search(r'http://127\.0\.0\.1:\d+/\?token=\S+\n', p.until('token=').out)[0].strip()
    assert '<title>Cue painter' in httpx.get(url).text
    news = lambda: httpx.get(url.replace('?','changes?after=0&'), timeout=60).json()['values']
    until(lambda: news()['_result']['$'] or news()['error'], 60); assert not news()['error']          # the model has painted
    code,out,err = p.interrupt().end()
    assert code==0 and 'Ended' in out and not err

"The cue painter in a real browser: alone, in JupyterLab, in Notebook 7 and on the page of manga-paint"
import colorsys,json,os,secrets,shutil,socket,subprocess,sys,time
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import numpy as np,pytest
from PIL import Image

playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed: no browser tests')
from manga_colorize.world.artist import World
from manga_colorize.core import to_image,to_tensor
from manga_colorize.colorizer.colorizer import Colorizer
from manga_colorize.colorizer.inputs import soften_cue
from manga_colorize.studio.paint_page import PaintPage
from manga_colorize.studio.painter import CuePainter
from manga_colorize.colorizer.pretrained import from_pretrained # `Colorizer` learns the word
from manga_colorize.cues.stroke_data import replay

STATIC = files('manga_colorize')/'static'
LESSON = Path(__file__).resolve().parent.parent/'nbs'/'studio'/'painter.ipynb'
LONG = 60_000 # Milliseconds to wait for anything; a busy machine is slow, and waiting costs nothing when all is well

@pytest.fixture(scope='module')
def browser():
    chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if not chromium: pytest.skip('Chromium is not installed: no browser tests')
    with playwright.sync_playwright() as p:
        b = p.chromium.launch(executable_path=chromium, args=['--no-sandbox','--disable-gpu','--disable-dev-shm-usage'])
        yield b
        b.close()

@pytest.fixture
def page(browser):
    page = browser.new_page(viewport=dict(width=1280, height=1000)); page.set_default_timeout(LONG)
    page.said = []; page.on('pageerror', lambda e: page.said.append(str(e)))
    page.on('console', lambda m: page.said.append(m.text) if m.type=='error' else None)
    yield page
    page.close()

def luck_strokes(rng, h, w, n):
    "Strokes of every tool at random places, some of them off the page"
    made = []
    for _ in range(n):
        tool = rng.choice(['brush','brush','brush','point','eraser','fill','fill','clear'], p=[.25,.2,.15,.1,.12,.1,.06,.02])
        if tool=='clear': made.append(dict(tool='clear')); continue
        points = [[*rng.uniform(-10, [w+10,h+10]).round(1).tolist(), round(float(rng.random()),2)] for _ in range(1 if tool in ('point','fill') else rng.integers(1,9))]
        made.append(dict(tool=str(tool), color='#%06x'%rng.integers(2**24), size=round(float(rng.uniform(.2,50)),1),
                         opacity=round(float(rng.random()),2), gap=int(rng.integers(0,12)), points=points))
    return made

def test_browser_and_kernel_paint_the_same(page):
    "120 random strokes of all tools at three scales: equal to one level of 255, hardly ever different at all; undoing them all leaves nothing"
    page.goto('about:blank')
    page.evaluate("""async source => { window.painter = await import(URL.createObjectURL(new Blob([source], {type:'text/javascript'}))); }""",
                  (STATIC/'cue_painter.js').read_text(encoding='utf-8'))
    sketch,rng,differ,n = World(seed=0).illustration(14, size=112).lines[:,:84],np.random.default_rng(0),0,0
    for scale in (1,.37,2.5):
        for k in range(5):
            strokes = luck_strokes(rng, 112/scale, 84/scale, 8)
            got = page.evaluate("""([sketch, w, h, scale, strokes]) => {
                const cue = new painter.Cue(Uint8Array.from(sketch), w, h, scale);
                cue.replay(strokes);
                const all = cue.px.slice();
                while (cue.patches.length) cue.undo();
                const empty = cue.px.every((v, i) => v === (i % 4 < 3 ? 255 : 0));
                return [Array.from(all), empty]; }""", [sketch.ravel().tolist(), 84, 112, scale, strokes])
            want = replay(strokes, sketch, scale=scale)
            error = np.abs(np.array(got[0]).reshape(want.shape)-want.astype(int))
            assert error.max()<=1 and got[1]
            differ += int((error>0).sum()); n += error.size
    print(f'{differ} of {n} values differ, by one')
    assert differ<n/10000

# ---------------------------------------------------------------- in JupyterLab and Notebook 7

CELLS = ["""from manga_colorize.core import to_image,to_tensor
from manga_colorize.world.artist import World
from manga_colorize.colorizer.inputs import soften_cue
from manga_colorize.studio.painter import CuePainter
from PIL import Image
import numpy as np
def wash(sketch, cue):
    fog = to_image(soften_cue(to_tensor(cue)[None], sigma=6)[0])
    return Image.fromarray((fog*(sketch[...,None]/255)).astype(np.uint8))
first = CuePainter(World(seed=0).illustration(14).lines, wash, folder='kept')
first""", """second = CuePainter(World(seed=0).illustration(10,size=128).lines, wash)
second"""]

def notebook(path, cells):
    cell = lambda i,s: dict(cell_type='code', id=f'c{i}', source=s, metadata={}, outputs=[], execution_count=None)
    about = dict(kernelspec=dict(display_name='Python 3', language='python', name='python3'))
    path.write_text(json.dumps(dict(nbformat=4, nbformat_minor=5, metadata=about, cells=[cell(i,s) for i,s in enumerate(cells)])), encoding='utf-8')

def free_port():
    with socket.socket() as s: s.bind(('127.0.0.1',0)); return s.getsockname()[1]

@contextmanager
def process(*args, cwd, env=None):
    "A program that is ended, with all it started, when the test is over"
    p = subprocess.Popen(args, cwd=cwd, env={**os.environ,'OMP_NUM_THREADS':'1',**(env or {})}, stdout=(cwd/'log.txt').open('wb'), stderr=subprocess.STDOUT)
    try: yield p
    finally:
        p.terminate()
        try: p.wait(20)
        except subprocess.TimeoutExpired: p.kill(); p.wait()

@pytest.fixture(scope='module')
def jupyter(tmp_path_factory):
    "A Jupyter server with a folder of its own: URL, token, folder"
    pytest.importorskip('jupyterlab', reason='JupyterLab is not installed'); pytest.importorskip('notebook', reason='Notebook 7 is not installed')
    folder,port,token = tmp_path_factory.mktemp('jupyter'),free_port(),secrets.token_hex(16)
    notebook(folder/'lab.ipynb', CELLS); shutil.copy(LESSON, folder/'nb7.ipynb')
    env = {f'JUPYTER_{k}_DIR':str(folder/'.jupyter'/k) for k in ('CONFIG','DATA','RUNTIME')} | dict(IPYTHONDIR=str(folder/'.ipython'),
            JUPYTERLAB_SETTINGS_DIR=str(folder/'.jupyter'/'s'), JUPYTERLAB_WORKSPACES_DIR=str(folder/'.jupyter'/'w'))
    options = [f'--ServerApp.port={port}','--ServerApp.ip=127.0.0.1','--ServerApp.open_browser=False',f'--IdentityProvider.token={token}',
               f'--ServerApp.root_dir={folder}',
               '--ServerApp.allow_root=True','--LabApp.news_url=','--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate']
    with process(sys.executable, '-m', 'jupyterlab', *options, cwd=folder, env=env):
        end = time.monotonic()+60
        while True: # until it listens
            try: socket.create_connection(('127.0.0.1',port), 1).close(); break
            except OSError:
                if time.monotonic()>end: pytest.fail((folder/'log.txt').read_text())
        yield f'http://127.0.0.1:{port}',token,folder

class Painter:
    "One painter on a page, handled as a person would"
    def __init__(self, page, locator): self.page,self.root = page,locator
    def js(self, code): return self.root.evaluate(f'root => {{ const painter = root.cuePainter, get = painter.get; return {code}; }}')
    def client(self, x, y): return self.js(f'painter.toClient({x},{y})')
    def settled(self):
        "Wait until the result of the last stroke is on the page"
        self.root.scroll_into_view_if_needed()
        handle = self.root.element_handle()
        self.page.wait_for_function("root => root.dataset.state === 'ready' && root.dataset.drawn === String(root.cuePainter.asked())", arg=handle)
    def stroke(self, *points):
        self.root.scroll_into_view_if_needed()
        at = [self.client(*p) for p in points]
        self.page.mouse.move(*at[0]); self.page.mouse.down()
        for p in at[1:]: self.page.mouse.move(*p, steps=6)
        self.page.mouse.up()
    def press(self, key): self.root.focus(); self.page.keyboard.press(key)
    def do(self, name): self.root.locator(f'[data-do={name}]').first.click()
    def color(self, value):
        self.root.locator('input[type=color]').evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles:true})); }", value)
    def result(self, x, y):
        return self.root.locator('.cp-result').evaluate('(c, [x,y]) => Array.from(c.getContext("2d").getImageData(x,y,1,1).data)', [x,y])
    def cue(self, x, y): return self.js(f'Array.from(painter.cue().pixels.slice(4*({y}*painter.cue().w+{x}), 4*({y}*painter.cue().w+{x})+4))')
    def strokes(self): return self.js('painter.strokes()')
    def status(self): return self.root.locator('.cp-status').inner_text()

def hue(rgb): return colorsys.rgb_to_hsv(*(v/255 for v in rgb[:3]))[0]*360

def kernel_ready(page, url, token):
    "Wait until the notebook's kernel has started and the page is connected to it"
    end = time.monotonic()+LONG/1000
    while time.monotonic()<end:
        sessions = page.request.get(f'{url}/api/sessions?token={token}').json()
        if any(s['kernel']['connections'] and s['kernel']['execution_state']=='idle' for s in sessions if s['path'] in page.url): return
        page.wait_for_timeout(200)
    pytest.fail('the kernel did not start')

def run_cell(page, i):
    "Run a cell and wait for its number; a page that is not quite ready swallows the first try, or asks something"
    cell = page.locator('.jp-Notebook .jp-CodeCell').nth(i); prompt = cell.locator('.jp-InputPrompt').first
    for _ in range(20):
        if page.locator('.jp-Dialog').count(): page.keyboard.press('Escape')
        try:
            cell.locator('.cm-content').click(timeout=3000); page.keyboard.press('Shift+Enter')
            playwright.expect(prompt).not_to_have_text('[ ]:', timeout=3000); break
        except (AssertionError,playwright.TimeoutError): pass
    playwright.expect(prompt).to_have_text(f'[{i+1}]:', timeout=LONG)

def paint_and_check(painter, x=40, y=20):
    "A stroke on blank paper at `x`, `y` takes its hue in the result; undo, redo, the eraser and a fill do what they say"
    painter.settled()
    if painter.strokes(): painter.do('clear'); painter.settled()
    n = len(painter.strokes())
    assert painter.result(x+8,y)[:3]==[255,255,255]
    painter.color('#2f6fd0'); painter.stroke((x,y),(x+40,y))
    painter.settled()
    assert abs(hue(painter.result(x+8,y))-hue((0x2f,0x6f,0xd0)))<8 and painter.cue(x+8,y)[:3]==[0x2f,0x6f,0xd0]
    painter.press('Control+z'); painter.settled()
    assert len(painter.strokes())==n and painter.result(x+8,y)[:3]==[255,255,255]
    painter.press('Control+y'); painter.settled()
    assert len(painter.strokes())==n+1 and painter.result(x+8,y)[2]>200
    painter.press('e'); painter.stroke((x+8,y-10),(x+8,y+10)); painter.settled()
    assert painter.cue(x+8,y)[3]==0 and painter.cue(x+36,y)[3]>0
    painter.press('g'); painter.stroke((8,8)); painter.settled()
    assert painter.strokes()[-1]['tool']=='fill' and painter.cue(8,8)[3]>0
    painter.press('b')

def open_and_run(page, url, token):
    page.goto(f'{url}/lab/tree/lab.ipynb?token={token}')
    page.locator('.jp-Notebook .jp-CodeCell').first.wait_for(); kernel_ready(page, url, token)
    for i in range(2): run_cell(page, i)
    painters = page.locator('.cue-painter')
    painters.nth(1).wait_for()
    return Painter(page, painters.nth(0)),Painter(page, painters.nth(1))

def test_jupyterlab(page, jupyter, tmp_path):
    "Run a notebook, paint, undo, erase, fill, save, reload; two painters do not mix; a restarted kernel is told of"
    url,token,folder = jupyter
    first,second = open_and_run(page, url, token)
    paint_and_check(first)
    page.screenshot(path=tmp_path/'lab.png')
    assert second.strokes()==[]
    second.settled(); second.color('#d03030'); second.stroke((30,64),(90,64)); second.settled()
    assert len(second.strokes())==1 and len(first.strokes())==3
    first.do('save'); page.wait_for_function("root => root.querySelector('.cp-status').textContent.startsWith('Saved')", arg=first.root.element_handle())
    kept = json.loads((folder/'kept'/'strokes.json').read_text())
    assert kept['strokes']==first.strokes() and Image.open(folder/'kept'/'result.png').size==(256,256)
    kept_cue = first.cue(8,8); assert np.array(Image.open(folder/'kept'/'cue.png'))[8,8].tolist()==kept_cue
    page.locator('.jp-CodeCell .cm-content').first.click(); page.keyboard.press('Control+s')
    end = time.monotonic()+LONG/1000
    while 'widget-view' not in (folder/'lab.ipynb').read_text(encoding='utf-8') and time.monotonic()<end: page.wait_for_timeout(100)
    page.reload(); page.locator('.cue-painter').first.wait_for(timeout=20000)      # the kernel still knows everything
    page.wait_for_function("root => root.cuePainter.strokes().length === 3", arg=first.root.element_handle()); first.settled()
    assert not first.root.locator('.cp-banner').is_visible() and first.cue(8,8)==kept_cue and first.result(8,8)[2]>200
    page.locator('.jp-Toolbar [data-command="notebook:restart-kernel"], [data-jp-item-name="restart"] >> nth=0').first.click()
    page.locator('.jp-Dialog .jp-mod-accept').click()
    banner = first.root.locator('.cp-banner'); banner.wait_for()
    assert 'kernel is gone' in banner.inner_text() and len(first.strokes())==3
    page.screenshot(path=tmp_path/'lab_lost.png')
    with page.expect_download() as download: banner.locator('button').click()
    assert json.loads(Path(download.value.path()).read_text())['strokes']==first.strokes()

def test_notebook7(page, jupyter, tmp_path):
    "Run the lesson itself from top to bottom, then paint in it"
    url,token,folder = jupyter
    page.goto(f'{url}/notebooks/nb7.ipynb?token={token}')
    page.locator('.jp-Notebook .jp-CodeCell').first.wait_for(); kernel_ready(page, url, token)
    run_cell(page, 0)
    page.locator('.lm-MenuBar-itemLabel', has_text='Run').first.click()
    page.locator('.lm-Menu-itemLabel', has_text='Run All Cells').first.click()
    painter = Painter(page, page.locator('.cue-painter').first); painter.root.wait_for(state='attached')
    page.wait_for_function("root => (root.cuePainter.strokes().at(-1) ?? {}).points?.length === 1 && root.cuePainter.strokes().length > 3", arg=painter.root.element_handle()) # the lesson's last line
    paint_and_check(painter, 100, 44)
    page.screenshot(path=tmp_path/'nb7.png')

# ---------------------------------------------------------------- on the page of manga-paint

def wash(sketch, cue):
    "As in the notebooks above"
    return Image.fromarray((to_image(soften_cue(to_tensor(cue)[None], sigma=6)[0])*(sketch[...,None]/255)).astype(np.uint8))

@pytest.fixture
def house(tmp_path):
    with PaintPage(CuePainter(World(seed=0).illustration(14).lines, wash, folder=tmp_path/'kept')) as h: yield h

def opened(page, house):
    page.goto(house.url)
    painter = Painter(page, page.locator('.cue-painter')); painter.root.wait_for()
    return painter

def test_page(page, house, tmp_path):
    "The same strokes as in a notebook; a model that fails; another sketch; the end"
    painter = opened(page, house)
    paint_and_check(painter)
    assert painter.strokes()==house.painter.strokes and painter.cue(48,20)==house.painter.cue[20,48].tolist()
    page.screenshot(path=tmp_path/'page.png')
    painter.press('Control+s'); page.wait_for_function("root => root.querySelector('.cp-status').textContent.startsWith('Saved')",
                                                       arg=painter.root.element_handle())
    assert (tmp_path/'kept'/'result.png').exists()
    painter.do('compare'); assert painter.root.locator('.cp-wipe').is_visible(); painter.do('compare')
    painter.press('Alt'); painter.do('pick'); painter.stroke((8,8)); painter.press('b')
    assert painter.root.locator('.cp-color code').inner_text()=='#2f6fd0'          # picked from the fill
    def tired(sketch, cue): raise MemoryError('too large for me')
    house.painter.auto = False; house.painter.paint = tired; house.painter.auto = True
    painter.stroke((100,200),(120,210))
    page.wait_for_function("root => root.dataset.state === 'error'", arg=painter.root.element_handle())
    assert 'too large for me' in painter.status() and len(painter.strokes())==4==len(house.painter.strokes)
    house.painter.paint = wash; painter.settled(); assert 'strokes' in painter.status()
    painter.do('ideas'); ideas = painter.root.locator('.cp-gallery button'); ideas.nth(3).wait_for(); ideas.nth(2).click(); painter.settled()
    assert painter.strokes()==house.painter._ideas[2]['strokes']
    house.painter.strokes = [dict(tool='point', color='#ff0000', size=30, points=[[200,30]])]     # from Python
    page.wait_for_function("root => root.cuePainter.strokes().length === 1", arg=painter.root.element_handle())
    assert painter.cue(200,30)==[255,0,0,255]
    Image.fromarray(World(seed=0).illustration(3,size=96).lines).save(tmp_path/'other.png')
    painter.root.locator('input[type=file]').set_input_files(tmp_path/'other.png')
    page.wait_for_function("root => root.cuePainter.cue()?.w === 96 && !root.cuePainter.strokes().length", arg=painter.root.element_handle())
    assert not page.said, page.said
    house.close()
    painter.root.locator('.cp-banner').wait_for()
    assert 'manga-paint has ended' in painter.root.locator('.cp-banner').inner_text()

def test_dark_and_narrow(browser, house, tmp_path):
    "Readable in the dark and on a phone; a finger paints, another page follows"
    context = browser.new_context(viewport=dict(width=420, height=900), color_scheme='dark', has_touch=True)
    page,other = context.new_page(),context.new_page(); page.set_default_timeout(LONG); other.set_default_timeout(LONG); page.said = other.said = []
    painter,follower = opened(page, house),opened(other, house)
    painter.settled(); page.bring_to_front()
    assert painter.root.get_attribute('data-theme')=='dark'
    x,y = painter.client(128,128); page.touchscreen.tap(x, y); painter.settled()
    assert len(painter.strokes())==1 and painter.cue(128,128)[3]>200
    other.wait_for_function("root => root.cuePainter.strokes().length === 1", arg=follower.root.element_handle())
    painter.do('help'); page.screenshot(path=tmp_path/'dark.png'); painter.do('help')
    n = painter.js("""(() => {                                                        // a pen that presses, then two fingers
        const stage = root.querySelector('.cp-stage'), at = (type, id, kind, [clientX, clientY], pressure=0) => stage.dispatchEvent(
            new PointerEvent(type, {pointerId:id, pointerType:kind, clientX, clientY, pressure, button:type === 'pointermove' ? -1 : 0, buttons:1, bubbles:true, cancelable:true}));
        const zoom = root.querySelector('.cp-zoom').textContent;
        at('pointerdown', 7, 'touch', painter.toClient(60,60)); at('pointerdown', 8, 'touch', painter.toClient(120,60)); at('pointermove', 8, 'touch', painter.toClient(220,60));
        at('pointerup', 8, 'touch', painter.toClient(220,60)); at('pointerup', 7, 'touch', painter.toClient(60,60));
        const zoomed = parseInt(root.querySelector('.cp-zoom').textContent) > parseInt(zoom), before = painter.strokes().length;
        at('pointerdown', 9, 'pen', painter.toClient(60,200), .25); at('pointermove', 9, 'pen', painter.toClient(90,200), 1); at('pointerup', 9, 'pen', painter.toClient(90,200));
        return [zoomed, before, painter.strokes().at(-1).points]; })()""")
    assert n[0] and n[1]==1 and [p[2] for p in n[2]][:2]==[.25,1] and abs(n[2][0][0]-60)<.2
    context.close()

def test_zoom_and_pan_paint_where_the_pointer_is(page, house):
    "The wheel zooms only where somebody paints; Space and a drag move the page; strokes land where they are seen"
    painter = opened(page, house); painter.settled()
    zoom = lambda: int(painter.root.locator('.cp-zoom').inner_text()[:-1])
    start = zoom(); page.mouse.move(*painter.client(100,100)); page.mouse.wheel(0,-300); assert zoom()==start   # nobody has clicked: the page scrolls
    painter.stroke((100,100)); page.mouse.wheel(0,-300)
    page.wait_for_function("([root, z]) => parseInt(root.querySelector('.cp-zoom').textContent) > z", arg=[painter.root.element_handle(),start])
    x,y = painter.client(100,100); page.keyboard.down(' '); page.mouse.down(); page.mouse.move(x+50, y+30); page.mouse.up(); page.keyboard.up(' ')
    assert np.allclose(painter.client(100,100), [x+50,y+30], atol=1) and len(painter.strokes())==1
    painter.press('p'); painter.stroke((120,90)); painter.settled()
    assert np.allclose(painter.strokes()[-1]['points'][0][:2], [120,90], atol=.2) and house.painter.cue[90,120,3]==255
    painter.press('0'); painter.press(']'); painter.press('3')
    assert zoom()==start and painter.root.locator('.cp-cue').evaluate('c => c.style.opacity')=='0'
    painter.press('Alt+z'); assert len(painter.strokes())==2                     # not ours: left to the browser

def test_the_shipped_model_takes_a_strokes_hue(page, tmp_path):
    "What the package's own painter makes of a green stroke on hair is green, there and a little beside it; a minute of painting leaves no error"
    with PaintPage(CuePainter(World(seed=11).illustration(3).lines, Colorizer.from_pretrained(device='cpu'))) as house:
        painter = opened(page, house); painter.settled()
        painter.color('#40b060'); painter.stroke((100,60),(150,60)); painter.settled()
        assert all(abs(hue(painter.result(x,y))-hue((0x40,0xb0,0x60)))<25 for x,y in ((110,60),(125,60),(140,60)))
        painter.color('#f0c8a8'); painter.stroke((120,130),(140,135)); painter.settled()
        page.screenshot(path=tmp_path/'shipped.png')
        assert not page.said and len(painter.js('painter.delays'))>=2

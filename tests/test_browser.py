"The cue painter in a real browser: alone, in JupyterLab, in Notebook 7 and on the page of manga-paint"
import base64,json,os,secrets,shutil,socket,subprocess,sys,time
from contextlib import contextmanager
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import numpy as np,pytest
from PIL import Image

playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed: no browser tests')
from manga_colorize.data.world import World
from manga_colorize.studio.stroke_image import replay

STATIC = files('manga_colorize')/'static'
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
    yield page
    page.close()

def luck_strokes(rng, h, w, n):
    "Strokes of every tool at random places, some of them off the page"
    made = []
    for _ in range(n):
        tool = rng.choice(['brush','brush','brush','point','eraser','fill','fill','clear'], p=[.25,.2,.15,.1,.12,.1,.06,.02])
        if tool=='clear': made.append(dict(tool='clear')); continue
        points = [[*rng.uniform(-10, [w+10,h+10]).round(1).tolist(), round(float(rng.random()),2)] for _ in range(1 if tool in ('point','fill') else rng.integers(1,9))]
        made.append(dict(tool=str(tool), color='#%06x'%rng.integers(2**24), size=round(float(rng.uniform(.2,50)),1), opacity=round(float(rng.random()),2), gap=int(rng.integers(0,12)), points=points))
    return made

def test_browser_and_kernel_paint_the_same(page):
    "240 random strokes of all tools at three scales: equal to one level of 255, hardly ever different at all"
    page.goto('about:blank')
    page.evaluate("""async source => { window.painter = await import(URL.createObjectURL(new Blob([source], {type:'text/javascript'}))); }""", (STATIC/'cue_painter.js').read_text(encoding='utf-8'))
    sketch,rng,differ,n = World(seed=0).illustration(14, size=160).lines[:,:120],np.random.default_rng(0),0,0
    for scale in (1,.37,2.5):
        for k in range(10):
            strokes = luck_strokes(rng, 160/scale, 120/scale, 8)
            got = page.evaluate("""([sketch, w, h, scale, strokes]) => {
                const cue = new painter.Cue(Uint8Array.from(sketch), w, h, scale);
                cue.replay(strokes);
                const all = cue.px.slice();
                while (cue.patches.length) cue.undo();
                const empty = cue.px.every((v, i) => v === (i % 4 < 3 ? 255 : 0));
                return [Array.from(all), empty]; }""", [sketch.ravel().tolist(), 120, 160, scale, strokes])
            want = replay(strokes, sketch, scale=scale)
            error = np.abs(np.array(got[0]).reshape(want.shape)-want.astype(int))
            assert error.max()<=1 and got[1]
            differ += int((error>0).sum()); n += error.size
    print(f'{differ} of {n} values differ, by one')
    assert differ<n/10000

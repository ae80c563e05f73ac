"The repository as a reader meets it: light, clean, honest notebooks (the form of lessons is in test_course.py)"
import json, re, shutil, subprocess, sys
from configparser import ConfigParser
from pathlib import Path
import nbformat, pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
PLUMBING = { # notebooks about what cannot be seen: no picture has to come early
    'colorizer/files.ipynb', 'commands/options.ipynb', 'commands/start.ipynb', 'commands/words.ipynb', 'methods.ipynb', 'pix2pix/import_weights.ipynb',
}
rel = lambda p: p.relative_to(ROOT).as_posix()
by_notebook = pytest.mark.parametrize('path', NOTEBOOKS, ids=rel)
by_notebook_but_index = pytest.mark.parametrize('path', [p for p in NOTEBOOKS if p.name!='index.ipynb'], ids=rel)

def read(path): return nbformat.read(path, 4)
def code(nb): return [c for c in nb.cells if c.cell_type=='code']
def outputs(nb): return [o for c in code(nb) for o in c.outputs]

@by_notebook
def test_light(path): assert path.stat().st_size <= 400_000

@by_notebook
def test_valid_with_stable_ids(path):
    nb = read(path); nbformat.validate(nb)
    ids = [c.id for c in nb.cells]
    assert len(set(ids))==len(ids)

@by_notebook
def test_no_debris(path):
    nb = read(path)
    assert not [o for o in outputs(nb) if o.output_type=='error' or o.get('name')=='stderr'], 'warnings or errors in the outputs'
    assert 'widgets' not in nb.metadata
    assert not re.search(r'\b(RATIO\d|FIGURES|TODO|PARITY|COST|[A-Z]+_RESULT)\b', '\n'.join(c.source for c in nb.cells)), 'a placeholder'
    text = json.dumps([o for o in outputs(nb)])
    for debris in ('<progress', 'FutureWarning', 'UserWarning', 'it/s]'): assert debris not in text, debris

@by_notebook
def test_no_machine_paths(path):
    assert not re.search(r'(/(?:home|Users|root|work)/|[A-Z]:\\\\Users|site-packages)', path.read_text(encoding='utf-8'))

@by_notebook_but_index
def test_opens_in_colab(path):
    nb = read(path); first = nb.cells[0].source
    assert re.match(r'# .+\n\n> .+', first), 'a title and a subtitle'
    assert f'blob/main/{rel(path)})' in first and 'colab-badge.svg' in first
    assert any("'google.colab' in sys.modules" in c.source and '#| hide' in c.source for c in code(nb)[:2])

@by_notebook_but_index
def test_picture_within_six_cells(path):
    "A figure, drawn or shown, among the first six cells that a reader sees; a notebook of `PLUMBING` that has one leaves that list"
    def picture(c):
        if c.cell_type=='markdown': return re.search(r'!\[[^]]+\]\((?!https?:)', c.source)
        return any(kind.startswith('image/') for o in c.outputs for kind in o.get('data',{}))
    seen = [c for c in read(path).cells if '#| hide' not in c.source and '#| default_exp' not in c.source]
    assert any(map(picture, seen[:6])) != (path.relative_to(ROOT/'nbs').as_posix() in PLUMBING)

@by_notebook_but_index
def test_pacing(path):
    "Never more than four code cells in a row"
    kinds = ['c' if c.cell_type=='code' else 'm' for c in read(path).cells if '#| hide' not in c.source and '#| default_exp' not in c.source]
    assert max(map(len, ''.join(kinds).split('m'))) <= 4

@by_notebook_but_index
def test_one_subject(path):
    lines = [l for c in code(read(path)) if re.match(r'#\| exports?\b', c.source) for l in c.source.splitlines()[1:] if l.strip()]
    assert len(lines) <= 250, f'{len(lines)} exported lines'

@by_notebook
def test_runs_without_nbdev(path): assert 'nbdev' not in ' '.join(c.source for c in code(read(path)))

@by_notebook
def test_links_lead_somewhere(path):
    for c in read(path).cells:
        if c.cell_type!='markdown': continue
        for target in re.findall(r'\]\(([^)#\s]+)[^)]*\)', c.source):
            if not re.match(r'https?:|mailto:', target): assert (path.parent/target).exists(), target

def test_sidebar_names_every_notebook():
    listed = re.findall(r'[\w/.-]+\.ipynb', (ROOT/'nbs'/'sidebar.yml').read_text(encoding='utf-8'))
    assert sorted(listed)==sorted(p.relative_to(ROOT/'nbs').as_posix() for p in NOTEBOOKS)

def test_quarto_config_is_shared():
    "A link; where links cannot be checked out, as on some Windows, git leaves the target's name instead"
    assert (ROOT/'nbs'/'_quarto.yml').read_text(encoding='utf-8') in ((ROOT/'_quarto.yml').read_text(encoding='utf-8'), '../_quarto.yml')

def settings():
    config = ConfigParser(delimiters=['=']); config.read(ROOT/'settings.ini', encoding='utf-8')
    return config['DEFAULT']

scripts = settings()['console_scripts'].split()
ask_all_for_help = """
import io,json,runpy,sys,warnings
from contextlib import redirect_stderr,redirect_stdout

def ask(path):
    "Run a command's script while no module of the package has been imported"
    for m in [m for m in sys.modules if m.split('.')[0]=='manga_colorize']: del sys.modules[m]
    sys.argv,code = [path,'--help'],0
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try: runpy.run_path(path, run_name='__main__')
        except SystemExit as e: code = e.code or 0
        except Exception as e: code = repr(e)
    return code,out.getvalue(),err.getvalue()

warnings.filterwarnings('error', module='manga_colorize')
print(json.dumps({path:ask(path) for path in sys.argv[1:]}))
"""

@pytest.fixture(scope='module')
def helps(tmp_path_factory):
    "What every command says to `--help`: one process, where the libraries are imported once"
    folder,files = tmp_path_factory.mktemp('helps'),[]
    for name,module,command in [s.replace(':','=').split('=') for s in scripts]:
        files.append(f'{name}.py'); (folder/files[-1]).write_text(f'import sys\nfrom {module} import {command}\nsys.exit({command}())\n')
    run = subprocess.run([sys.executable,'-c',ask_all_for_help,*files], cwd=folder, capture_output=True, text=True, encoding='utf-8', timeout=60)
    assert run.returncode==0 and not run.stderr, run.stderr
    return json.loads(run.stdout)

@pytest.mark.parametrize('script', scripts)
def test_every_command_has_help(script, helps):
    "Each command is installed beside this Python, needs no module but those it imports, warns of nothing, and explains its arguments"
    command = shutil.which(script.split('=')[0], path=str(Path(sys.executable).parent))
    assert command, f"{script} is not installed: run 'make setup'"
    code,out,err = helps[script.split('=')[0]+'.py']
    assert code==0 and not err, (code,err)
    assert out.startswith('usage')

SOURCES = sorted(p for folder in ('manga_colorize','tests') for p in (ROOT/folder).rglob('*.py') if p.name!='_modidx.py')
UNWRAPPED = {
    'tests/test_adherence.py':1, 'tests/test_batches.py':3, 'tests/test_booru.py':2, 'tests/test_browser.py':5, 'tests/test_collections.py':3,
    'tests/test_demo.py':1, 'tests/test_download.py':3, 'tests/test_embedded.py':3, 'tests/test_matches.py':1, 'tests/test_painter.py':1,
    'tests/test_reading.py':1, 'tests/test_reference.py':1, 'tests/test_sources.py':1, 'tests/test_world.py':1,
}

@pytest.mark.parametrize('path', SOURCES, ids=rel)
def test_lines_fit_a_screen(path):
    "160 characters; files of `UNWRAPPED` may have so many longer ones as stand there, and never more"
    long = [i for i,l in enumerate(path.read_text(encoding='utf-8').splitlines(), 1) if len(l)>160]
    assert len(long)<=UNWRAPPED.get(rel(path), 0), long

def test_repository_is_small():
    files = subprocess.run(['git','ls-files','-z'], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split('\0')
    sizes = {f:(ROOT/f).stat().st_size for f in files if f and (ROOT/f).is_file()}
    assert max(sizes.values()) <= 11_000_000
    assert sum(s for f,s in sizes.items() if f.startswith('data/')) <= 15_000_000

@by_notebook
def test_no_widget_state(path):
    "A picture stands for a widget; its state would change at every run"
    nb = read(path)
    assert 'widgets' not in nb.metadata and not any('widget-view' in kind for c in nb.cells for o in c.get('outputs',[]) for kind in o.get('data',{}))

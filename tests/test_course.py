"The course: sixteen lessons of one form, and the command that lays them out"
import ast,json,re,runpy,shutil
from pathlib import Path

import nbformat,pytest,setuptools

from manga_colorize.commands import course

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT/'nbs'
NOTEBOOKS = sorted(p for p in NBS.rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
LESSONS = [p for p in NOTEBOOKS if p.parent==NBS/'course']
rel = lambda p: p.relative_to(ROOT).as_posix()
by_lesson = pytest.mark.parametrize('path', LESSONS, ids=rel)
link = re.compile(r'\]\((?![a-zA-Z]+:)([^)#\s]+)')

def read(path): return nbformat.read(path, 4)
def markdown(nb): return [c.source for c in nb.cells if c.cell_type=='markdown']
def visible(nb): return [c for c in nb.cells if not re.search(r'^#\| *(hide|default_exp)\b', c.source, re.M)]
def title(path): return read(path).cells[0].source.splitlines()[0].removeprefix('# ')

# --- the form of a lesson; its length, pacing, weight and links are in test_hygiene.py

def test_sixteen_lessons():
    assert [p.name[:3] for p in LESSONS]==[f'{i:02}_' for i in range(1,17)]

@by_lesson
def test_opens_with_a_title_one_line_and_a_badge(path):
    badge = r'\[!\[Open in Colab\]\(https://colab\.research\.google\.com/assets/colab-badge\.svg\)\]\(\S+/blob/main/' + re.escape(rel(path)) + r'\)'
    assert re.fullmatch(rf'# .+\n\n> .+\n\n{badge}', read(path).cells[0].source)

@by_lesson
def test_a_picture_comes_early(path):
    assert any(kind.startswith('image/') for c in visible(read(path))[:6] for o in c.get('outputs',[]) for kind in o.get('data',{}))

promises = r'\*\*You will need\*\* .+\n+\*\*You will have\*\* .+\n+\*\*Minutes\*\* (\d*½?) on two CPU cores at `quick`\.'

def minutes(path):
    "What the lesson says it takes"
    found = [m[1] for s in markdown(read(path)) if (m := re.fullmatch(promises, s))]
    assert len(found)==1 and found[0], f"{path.name}: expected one cell of **You will need**, **You will have** and **Minutes**"
    return int(found[0].rstrip('½') or 0)+.5*found[0].endswith('½')

@by_lesson
def test_says_what_it_needs_gives_and_takes(path): assert minutes(path)>0

def test_all_lessons_take_25_minutes_at_most(): assert sum(map(minutes, LESSONS))<=25

@by_lesson
def test_closes_with_failure_cost_and_exercises(path):
    text = '\n\n'.join(markdown(read(path)))
    heads = re.findall(r'^## (.+)$', text, re.M)
    assert heads[-3:]==['What went wrong','Cost','Exercises']
    assert re.findall(r'^(\d+)\. ', text.split('## Exercises')[1], re.M)==['1','2','3']

@pytest.mark.parametrize('i', range(len(LESSONS)), ids=[rel(p) for p in LESSONS])
def test_leads_to_its_neighbours(i):
    "The last cell that a reader sees names the lessons before and after, by their titles"
    last = visible(read(LESSONS[i]))[-1]
    assert last.cell_type=='markdown'
    for word,j in (('Before',i-1),('Next',i+1)):
        found = re.search(rf'\b{word}: \[(.+?)\]\((.+?)\)', last.source)
        if 0<=j<len(LESSONS): assert found and found.groups()==(title(LESSONS[j]),LESSONS[j].name)
        else: assert not found

@by_lesson
def test_exports_only_what_it_teaches(path):
    lines = [l for c in read(path).cells if re.match(r'#\| *exports?\b', c.source) for l in c.source.splitlines()[1:] if l.strip()]
    assert len(lines)<=120, f'{len(lines)} exported lines'

def sheets(nb):
    "Every call of `show_pages` or `page_sheet`"
    for c in nb.cells:
        if c.cell_type!='code' or re.search(r'^\s*[%!]', c.source, re.M): continue
        yield from (n for n in ast.walk(ast.parse(c.source)) if isinstance(n,ast.Call) and getattr(n.func,'id',None) in ('show_pages','page_sheet'))

@by_lesson
def test_pictures_are_large_enough_to_see(path):
    for call in sheets(read(path)):
        px = {k.arg:k.value for k in call.keywords}.get('px')
        assert px is not None, f'without px: {ast.unparse(call)}'
        assert not isinstance(px,ast.Constant) or px.value>=160, ast.unparse(call)

@by_lesson
def test_words(path):
    "Nothing left to fill in, and plain names"
    assert not re.search(r"(?i:forger)|\(caption: |\bMINUTES\b", path.read_text(encoding="utf-8"))

@pytest.mark.parametrize('path', [*NOTEBOOKS,*(ROOT/f for f in ('README.md','CONTRIBUTING.md','Makefile'))], ids=rel)
def test_names_no_command_that_is_gone(path):
    assert not re.search(r'manga-(tasks|lab|cyclegan|consistency)\b', path.read_text(encoding='utf-8'))

def test_the_sidebar_keeps_the_order():
    listed = re.findall(r'course/\S+', (NBS/'sidebar.yml').read_text(encoding='utf-8'))
    assert listed==[f'course/{p.name}' for p in LESSONS]

def test_the_index_lists_every_lesson_as_it_calls_itself():
    rows = re.findall(r'^\| (\d+) \| \[(.+?)\]\(course/(\S+)\) \| .+ \| (\d*)(½?) \|$', '\n'.join(markdown(read(NBS/'index.ipynb'))), re.M)
    assert [(int(i),t,name,int(n or 0)+.5*len(half)) for i,t,name,n,half in rows]==[(i,title(p),p.name,minutes(p)) for i,p in enumerate(LESSONS, 1)]

# --- manga-course

@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    "A package as pip would install it: the lessons that `setup.py` packs, and no checkout beside it"
    with pytest.MonkeyPatch.context() as m:
        packed = {}
        m.setattr(setuptools, 'setup', lambda **kwargs: packed.update(kwargs)); m.chdir(ROOT)
        runpy.run_path(str(ROOT/'setup.py'))
    home = tmp_path_factory.mktemp('site')/'manga_colorize'
    for f in (f for pattern in packed['package_data']['manga_colorize.lessons'] for f in NBS.glob(pattern) if f.is_file()):
        there = home/'lessons'/f.relative_to(NBS); there.parent.mkdir(parents=True, exist_ok=True); shutil.copyfile(f, there)
    return home

@pytest.fixture(params=['checkout','installed'])
def laid_out(request, tmp_path, monkeypatch):
    "The course in a folder, from a checkout or from an installed package"
    if request.param=='installed': monkeypatch.setattr(course, 'files', lambda name: request.getfixturevalue('installed'))
    assert course.lessons_path()==(NBS if request.param=='checkout' else request.getfixturevalue('installed')/'lessons')
    written,kept = course.copy_lessons(tmp_path/'c')
    assert not kept and sorted(written)==files_below(tmp_path/'c')
    return tmp_path/'c'

def files_below(folder): return sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file())

def test_lessons_on_top_and_all_else_under_reference(laid_out):
    assert sorted(p.name for p in laid_out.iterdir())==[*(p.name for p in LESSONS),'reference']
    others = [p.relative_to(NBS).as_posix() for p in [*NOTEBOOKS,*(NBS/'images').rglob('*.*')] if p not in LESSONS]
    assert files_below(laid_out/'reference')==sorted(others)

def test_every_link_of_the_copy_leads_somewhere(laid_out):
    n = 0
    for p in laid_out.rglob('*.ipynb'):
        for target in link.findall('\n'.join(markdown(read(p)))): assert (p.parent/target).is_file(), (p,target); n += 1
    assert n>len(NOTEBOOKS)

def test_links_are_all_that_changes(laid_out):
    for p in LESSONS:
        old,new = read(p),read(laid_out/p.name)
        assert [c for c in old.cells if c.cell_type=='code']==[c for c in new.cells if c.cell_type=='code'] and old.metadata==new.metadata
        assert [link.sub('](', s) for s in markdown(old)]==[link.sub('](', s) for s in markdown(new)]

def test_a_second_run_changes_nothing(laid_out):
    before = {p:p.stat().st_mtime_ns for p in laid_out.rglob('*')}
    assert course.copy_lessons(laid_out)==([],[]) and before=={p:p.stat().st_mtime_ns for p in laid_out.rglob('*')}

def test_what_a_reader_changed_is_left_alone_and_named(laid_out, capsys):
    first,deep = laid_out/LESSONS[0].name,laid_out/'reference'/'core.ipynb'
    for p in (first,deep): p.write_text('mine')
    course.manga_course(laid_out)
    assert 'Left alone' in (out := capsys.readouterr().out) and first.name in out and 'reference/core.ipynb' in out
    assert first.read_text()==deep.read_text()=='mine'
    course.manga_course(laid_out, force=True)
    assert 'Left alone' not in capsys.readouterr().out and json.loads(first.read_text(encoding='utf-8')) and course.copy_lessons(laid_out)==([],[])

def test_nothing_half_written(tmp_path, monkeypatch):
    "A copy that is interrupted leaves whole files only"
    monkeypatch.setattr(Path, 'write_bytes', lambda self,data: (self.open('wb').write(data[:9]), (_ for _ in ()).throw(OSError('disk full'))))
    with pytest.raises(OSError, match='disk full'): course.copy_lessons(tmp_path)
    assert files_below(tmp_path)==[]

def test_the_message_opens_with_lesson_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    course.manga_course('my course')
    lines = capsys.readouterr().out.splitlines()
    assert 'lesson 1' in lines[0] and lines[1].strip()=="jupyter lab 'my course/01_the_whole_road.ipynb'"
    assert any(l.startswith('16 lessons') for l in lines) and any('eference' in l and str(Path('my course/reference')) in l for l in lines)

def test_a_file_is_no_folder(tmp_path):
    (tmp_path/'taken').touch()
    with pytest.raises(ValueError, match='expected a folder'): course.copy_lessons(tmp_path/'taken')

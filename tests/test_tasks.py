"Three tasks: what each painter is told, means and errors, sheet, files, command"
import json,math

import numpy as np,pytest
from PIL import Image
from manga_colorize.commands.evaluate import manga_evaluate
from manga_colorize.core import over_white,to_image
from manga_colorize.dataset.batches import cues
from manga_colorize.cues.blur import blur_cue,no_cue
from manga_colorize.evaluate.metrics import psnr,ssim
from manga_colorize.evaluate.tasks import TaskScores,evaluate_tasks,paint_page,show_tasks,task_files,task_names,task_sheet
from fixtures import digest

def picture(i, side=64):
    rng = np.random.default_rng(i)
    return rng.integers(0, 256, (4,4,3), np.uint8).repeat(side//4, 0).repeat(side//4, 1)

def write(path, splits):
    lines = []
    for s,n in splits.items():
        (path/s).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(picture(len(lines))).save(path/s/f'{i}.png')
            lines.append(json.dumps(dict(file_name=f'{s}/{i}.png', split=s, complexity=10., characters=[f'{s}{i}'], style='plain')))
    (path/'metadata.jsonl').write_text('\n'.join(lines)+'\n', encoding='utf-8')
    return path

@pytest.fixture(scope='module')
def pages(tmp_path_factory): return write(tmp_path_factory.mktemp('tasks')/'pages', dict(train=24, valid=4, color=5, transfer=4, interpolation=3))

def paper(sketch, cue): return sketch
def fog(sketch, cue): return over_white(cue)

def test_files(pages):
    assert [len(task_files(pages,t)) for t in task_names]==[5,4,3] and task_files(pages,'held')==[]
    assert task_files(pages,'color',2)==[pages/'color'/'0.png',pages/'color'/'1.png']

def test_scores_are_those_of_metrics(pages):
    s = evaluate_tasks(dict(paper=paper, fog=fog), pages)
    assert s.tasks==list(task_names) and s.painters==['cue alone','paper','fog'] and len(s.pictures)==12*3
    for p in s.pictures:
        color = to_image(pages/p['file'])
        if p['painter']!='paper':
            assert math.isclose(p['psnr'], psnr(blur_cue(color)[...,:3], color)) and math.isclose(p['ssim'], ssim(blur_cue(color)[...,:3], color))
    x = s['color','paper','psnr']; row = [r for r in s.rows if (r['task'],r['painter'])==('color','paper')][0]
    assert row['pictures']==5 and math.isclose(row['psnr']['mean'], x.mean()) and math.isclose(row['psnr']['error'], x.std(ddof=1)/5**.5)
    assert s.gain('fog','cue alone')['transfer']==dict(mean=0.,error=0.)
    assert math.isclose(s.gain('fog','paper','ssim')['color']['mean'], (s['color','fog','ssim']-s['color','paper','ssim']).mean())

class Learned:
    "A painter that remembers what it was told in training, and notes what it is told now"
    def __init__(self, cue): self.given,self.told = ('sketch',) if cue=='none' else ('sketch','cue'),[]
    def __call__(self, sketch, cue):
        assert sketch.dtype==np.uint8 and sketch.ndim==2 and cue.shape==(*sketch.shape,4) and cue.dtype==np.uint8
        self.told.append(cue); return over_white(cue)

def test_who_is_told_what(pages):
    a,b,c,d = Learned('none'),Learned('blur'),Learned('none'),Learned('blur')
    s = evaluate_tasks(dict(A=a, B=b, C=(c,'blur'), D=(d,no_cue)), pages, n=2)
    assert all((x==no_cue(x)).all() for x in a.told+d.told) and all((x[...,3]==255).all() for x in b.told+c.told)
    assert len(a.told)==6 and s.protocol=='Told: cue alone: blur; A: none; B: blur; C: blur; D: no_cue.'

@pytest.mark.parametrize('cue', [c for c in cues if c!='none'])
def test_cues_repeat_themselves_and_differ_by_picture(pages, cue):
    a,b,c = Learned(cue),Learned(cue),Learned(cue)
    s = evaluate_tasks(dict(a=a, b=b), pages, cue=cue); evaluate_tasks(dict(c=c), pages, cue=cue, seed=1)
    assert all((x==y).all() for x,y in zip(a.told,b.told)) and (s['color','a','psnr']==s['color','b','psnr']).all()
    if cue!='blur': assert not all((x==y).all() for x,y in zip(a.told,c.told))
    again = Learned(cue); evaluate_tasks(dict(a=again), pages, cue=cue, n=2, tasks=('transfer',))   # fewer pictures: the same cues
    assert all((x==y).all() for x,y in zip(again.told,a.told[5:7])) and len(again.told)==2

def test_empty_tests_are_left_out(tmp_path):
    path = write(tmp_path/'a', dict(train=2, transfer=2))
    s = evaluate_tasks(dict(paper=paper), path)
    assert s.tasks==['transfer'] and task_sheet(dict(paper=paper), path, px=16, n=1).size==(4*20-4, 36)
    path = write(tmp_path/'b', dict(train=2))
    for f in (evaluate_tasks,task_sheet):
        with pytest.raises(ValueError, match='expected pictures for a test'): f(dict(paper=paper), path)

def test_one_picture_has_no_error(pages):
    s = evaluate_tasks(dict(paper=paper), pages, n=1)
    assert s.rows[0]['psnr']['error'] is None and '±' not in ' '.join(s.table()[1])

def test_table(pages, tmp_path):
    s = evaluate_tasks({'a|b':paper}, pages)
    md = s._repr_markdown_().splitlines()
    assert md[0]=='| task | pictures | cue alone | a/b |' and md[1]=='|:--|--:|--:|--:|' and md[2].startswith('| color | 5 |')
    assert str(s).splitlines()[0].split()==['task','pictures','cue','alone','a|b'] and len(str(s).splitlines())==6
    assert s.save(tmp_path/'x'/'y')==tmp_path/'x'/'y'
    kept = json.loads((tmp_path/'x'/'y'/'tasks.json').read_text(encoding='utf-8'))
    assert kept['pictures']==s.pictures and kept['rows']==s.rows
    assert (tmp_path/'x'/'y'/'tasks.md').read_text(encoding='utf-8').strip()==s._repr_markdown_().strip()
    assert sorted(p.name for p in (tmp_path/'x'/'y').iterdir())==['tasks.json','tasks.md']

def test_page_and_sheet(pages):
    page = paint_page(dict(paper=paper, fog=fog), pages/'color'/'0.png')
    assert list(page)==['sketch','cue','paper','fog','color'] and (page['fog']==over_white(page['cue'])).all()
    sheet = task_sheet(dict(paper=paper, fog=fog), pages, px=32)
    assert sheet.size==(5*36-4, 3*(2*36-4+20)+16)
    show_tasks(dict(paper=paper), pages, n=1, px=16)

def test_own_sketches(tmp_path):
    path = write(tmp_path/'a', dict(train=2, color=2))
    seen = lambda sketch,cue: sketch
    with pytest.raises(ValueError, match='expected a sketch with every picture'): evaluate_tasks(dict(A=seen), path, sketch='own')
    lines = [json.loads(l) for l in (path/'metadata.jsonl').read_text(encoding='utf-8').splitlines()]
    (path/'ink').mkdir()
    for i,l in enumerate(lines):
        l['sketch'] = f'ink/{i}.png'; Image.fromarray(np.full((64,64), 10*i, np.uint8)).save(path/l['sketch'])
    (path/'metadata.jsonl').write_text(''.join(json.dumps(l)+'\n' for l in lines), encoding='utf-8')
    got = []
    evaluate_tasks(dict(A=lambda sketch,cue: (got.append(sketch), sketch)[1]), path, sketch='own')
    assert [(g.shape,int(g.max())) for g in got]==[((64,64),20),((64,64),30)]
    assert task_sheet(dict(A=seen), path, sketch='own', px=16).height==20+2*20-4
    evaluate_tasks(dict(A=lambda sketch,cue: (got.append(sketch), sketch)[1]), path, n=1, sketch=lambda color: color[...,1])
    assert (got[-1]==picture(2)[...,1]).all()

def test_wrong_names(pages):
    for name in ('cue alone','sketch','cue','color'):
        with pytest.raises(ValueError, match='expected other names'): evaluate_tasks({name:paper}, pages)
    with pytest.raises(ValueError, match='expected a cue among'): evaluate_tasks(dict(paper=paper), pages, cue='fog')
    with pytest.raises(ValueError, match='expected a finished data set'): evaluate_tasks(dict(paper=paper), pages/'nowhere')

tiny = '--epochs 2 --bs 8 --ngf 2 --n_down 4 --precision fp32'.split()

def run(dataset, out, *more): manga_evaluate(['tasks', str(dataset), '--out', str(out), *map(str,more)])

def test_command(pages, tmp_path, capsys):
    out = tmp_path/'out'
    run(pages, out, *tiny)
    said = capsys.readouterr().out
    assert 'interpolation' in said and f'are in {out}' in said
    assert {p.name for p in out.iterdir()}=={'a','b','tasks.md','tasks.json','tasks.png'}
    first = {p:digest(p) for p in out.rglob('*') if p.suffix in ('.safetensors','.json','.md') and p.parent!=out}
    told = [json.loads((out/k/'config.json').read_text(encoding='utf-8'))['protocol']['cue'] for k in 'ab']
    assert told==['none','blur'] and 'Told: cue alone: blur; A: none; B: blur.' in said
    run(pages, out, '--n', 2)                                          # nothing left to train
    assert {k:v for k,v in first.items() if k.suffix=='.safetensors'}=={p:digest(p) for p in first if p.suffix=='.safetensors'}
    rows = json.loads((out/'tasks.json').read_text(encoding='utf-8'))['rows']
    assert {r['pictures'] for r in rows}=={2} and [r['painter'] for r in rows[:3]]==['cue alone','A','B']
    capsys.readouterr()
    run(pages, tmp_path/'taken', '--a', out/'b', '--b', out/'a', '--cue', 'stroke', '--n', 1)
    assert 'A: none; B: stroke.' in capsys.readouterr().out and not (tmp_path/'taken'/'a').exists()

def test_command_goes_on(pages, tmp_path, monkeypatch):
    "A run that was stopped in A is continued by the same command, to the same weights"
    from manga_colorize.training.checkpoints import Checkpoints
    whole,broken = tmp_path/'whole',tmp_path/'broken'
    run(pages, whole, '--n', 1, *tiny)
    once = Checkpoints.after_epoch
    def stop(self): once(self); raise KeyboardInterrupt
    monkeypatch.setattr(Checkpoints, 'after_epoch', stop)
    with pytest.raises(SystemExit) as e: run(pages, broken, '--n', 1, *tiny)
    assert e.value.code==130
    monkeypatch.undo()
    run(pages, broken, '--n', 1, *tiny)
    for k in 'ab': assert digest(whole/k/'model.safetensors')==digest(broken/k/'model.safetensors')

def test_ctrl_c_ends_the_command(pages, tmp_path, monkeypatch):
    "After Ctrl-C in A, B is not begun"
    from manga_colorize.training.checkpoints import StopOnCtrlC
    batch = StopOnCtrlC.after_batch
    def pressed(self): self.stopped = True; batch(self)
    monkeypatch.setattr(StopOnCtrlC, 'after_batch', pressed)
    with pytest.raises(SystemExit, match='stopped after 0 epochs of a'): run(pages, tmp_path/'out', '--n', 1, *tiny)
    assert not (tmp_path/'out'/'b').exists()

@pytest.mark.parametrize('more,match', [(['--cue','fog'],'expected a cue among'), (['--a','nowhere'],'expected a folder with config.json'),
                                        (['--bs','99'],'at least one batch of 99'), (['--method','cyclegan'],'with and without a cue, got cyclegan')])
def test_command_errors(pages, tmp_path, more, match):
    options = tiny if '--method' not in more else []
    with pytest.raises(SystemExit, match=match): run(pages, tmp_path/'out', *options, *more)

def test_command_needs_tests(tmp_path):
    path = write(tmp_path/'a', dict(train=9, valid=2))
    with pytest.raises(SystemExit, match='expected pictures for the tests'): run(path, tmp_path/'out', *tiny)
    with pytest.raises(SystemExit, match='expected a finished data set'): run(tmp_path, tmp_path/'out', *tiny)

def test_painters_are_told_what_their_methods_say(pages):
    "A painter of grey pages gets grey pages and no cue, one that learned without a cue none"
    got = {}
    class Spy:
        def __init__(self, given): self.given = given
        def __call__(self, page, cue): got[self.given] = (len(np.unique(page)), int(cue[...,3].max())); return page
    evaluate_tasks({str(g):Spy(g) for g in (('grey',),('sketch',),('sketch','cue'))}, pages, n=1, tasks=('color',))
    assert got[('grey',)][0]>2 and got[('sketch',)][0]<=2
    assert [got[k][1] for k in (('grey',),('sketch',),('sketch','cue'))]==[0,0,255]

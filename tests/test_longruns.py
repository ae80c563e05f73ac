"A run that is really killed, while it computes and while it writes, ends with the weights of an unbroken one"
import os,random,signal,warnings
import numpy as np,pytest,torch
from fastai.basics import Callback,DataLoader,DataLoaders
from children import Child
from manga_colorize.core import seed_everything
from manga_colorize.training.checkpoints import *
from manga_colorize.pix2pix.training import *
from manga_colorize.training.precision import *
from manga_colorize.training.progress import *
from manga_colorize.training.schedule import *

def die(): os.kill(os.getpid(), getattr(signal, 'SIGKILL', signal.SIGTERM))

class Kill(Callback):
    def before_step(self):
        if self.epoch==2 and self.iter==1: die()

def die_writing(state, path, whole=torch.save):
    whole(state, path)
    half = path.read_bytes()[:2000]; path.write_bytes(half)
    die()

def noise(b): return [b[0]+random.random()*.01, b[1]+np.random.rand()*.01, b[2]]     # luck of the global generators

def train(folder, how):
    "Four epochs, or what is left of them; in a process of its own"
    warnings.simplefilter('ignore'); torch.set_num_threads(1)
    seed_everything(0 if how!='resume' else 99)                       # a resumed run must not depend on its own start
    if how=='die_writing': torch.save = die_writing
    generator = torch.Generator().manual_seed(0)
    draw = lambda c: torch.rand(12, c, 64, 64, generator=generator)*2-1
    items = list(zip(draw(1), draw(4), draw(3)))
    dls = DataLoaders(DataLoader(items, bs=4, shuffle=True, after_batch=noise), DataLoader(items[:4], bs=4)); dls.n_inp = 2
    learn = pix2pix_learner(dls, ngf=4, n_down=6, path=folder, precision='bf16')
    cbs = [Checkpoints(folder/'run.pt', resume=how in ('resume','die_writing'))] if how!='unbroken' else []
    with learn.no_bar(): learn.fit_flat_lin(2, 2, lr=1e-3, cbs=cbs + ([Kill()] if how=='die' else []))
    torch.save(dict(model=learn.model.state_dict(), losses=learn.adversarial.history), folder/f'{how}.pth')

def test_killed_and_resumed(tmp_path):
    (folder := tmp_path/'run').mkdir()
    def run(how): return Child(tmp_path, train, folder, how).end()
    code,_,err = run('unbroken'); assert code == 0, err
    assert run('die')[0] != 0
    assert read_checkpoint(folder/'run.pt')['epoch'] == 2
    assert run('die_writing')[0] != 0        # in the writing of the third checkpoint
    assert read_checkpoint(folder/'run.pt')['epoch'] == 2
    assert sorted(p.name for p in folder.iterdir()) == ['run.pt', 'run.pt.part', 'unbroken.pth']
    code,out,err = run('resume'); assert code == 0, err
    assert [l[:2] for l in out.splitlines()] == ['[2','[3']   # the log begins where the run did
    assert not (folder/'run.pt.part').exists()
    one,two = [torch.load(folder/f'{k}.pth', weights_only=True) for k in ('unbroken','resume')]
    assert one['model'].keys() == two['model'].keys()
    for k,v in one['model'].items(): assert torch.equal(v, two['model'][k]), k
    assert torch.equal(one['losses'], two['losses']) and one['losses'].shape == (12,3)

def test_missing_and_foreign_checkpoints(tmp_path):
    with pytest.raises(FileNotFoundError): read_checkpoint(tmp_path/'none.pt')
    for name,data in dict(empty=b'', text=b'hello', zip=b'PK\x03\x04'+bytes(100)).items():
        (tmp_path/name).write_bytes(data)
        with pytest.raises(ValueError, match='expected a checkpoint'): read_checkpoint(tmp_path/name)

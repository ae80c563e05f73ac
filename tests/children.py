"""Processes that can be interrupted and killed, all children of one that has imported everything before.
A dozen imports of PyTorch would take longer than what is tested. The environment is the parent's at the start of each.
Where processes cannot be forked so (Windows, macOS) each child imports for itself."""
import multiprocessing as mp,os,runpy,shutil,signal,subprocess,sys,time
from pathlib import Path

import pytest

context = mp.get_context('forkserver' if sys.platform=='linux' else 'spawn')
if sys.platform=='linux': context.set_forkserver_preload(['pytest','manga_colorize.all','torch._dynamo'])   # the last by every optimizer's first step
posix = os.name=='posix'

def _begin(f, args, out, err, env):
    "What a shell does for a program: a session of its own, Ctrl-C as usual, files for what is said"
    if posix: os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)   # whatever the runner ignores
    os.environ.clear(); os.environ.update(env)   # a fork server has that of its own start
    for to,path in ((1,out),(2,err)): os.dup2(os.open(path, os.O_WRONLY|os.O_CREAT|os.O_APPEND), to)
    sys.stdout,sys.stderr = [open(to, 'w', encoding='utf-8', buffering=1, closefd=False) for to in (1,2)]
    f(*args)

def run_script(path, *args):
    "What the console script at `path` does"
    if not posix: sys.exit(subprocess.run([path,*args]).returncode)   # an .exe there
    sys.argv = [path,*args]
    runpy.run_path(path, run_name='__main__')

class Child:
    "A process that calls `f`: what it said is in `out` and `err`, what became of it in `returncode`"
    def __init__(self, folder, f, *args, **env):
        k = len(list(Path(folder).glob('child*.out')))
        self.files = [Path(folder)/f'child{k}.{s}' for s in ('out','err')]
        for p in self.files: p.touch()
        self.process = context.Process(target=_begin, args=(f,args,*map(str,self.files),dict(os.environ)|env)); self.process.start()
    @property
    def pid(self): return self.process.pid
    @property
    def out(self): return self.files[0].read_text(encoding='utf-8')
    @property
    def err(self): return self.files[1].read_text(encoding='utf-8')
    @property
    def returncode(self): return self.process.exitcode
    def until(self, done, seconds=60):
        "Wait until `done()` is true, or a line that contains `done` was said, or the child has ended"
        there,end = done if callable(done) else lambda: done in self.out,time.monotonic()+seconds
        while not there() and self.process.is_alive():
            if time.monotonic()>end: self.give_up('waited in vain')
            time.sleep(.005)
        return self
    def interrupt(self): os.killpg(self.pid, signal.SIGINT); return self   # as a terminal does: the whole group
    def kill(self): self.process.kill(); return self
    def give_up(self, why):
        "Kill it and what it has started, then fail: the runner would wait for it at its own end"
        try: os.killpg(self.pid, signal.SIGKILL) if posix else self.kill()
        except ProcessLookupError: self.kill()   # not yet a group
        self.process.join()
        pytest.fail(f'{why}: {self.out}{self.err}')
    def end(self, seconds=60):
        "Wait for the end: exit code, and what was said"
        self.process.join(seconds)
        if self.process.is_alive(): self.give_up('it does not end')
        return self.returncode,self.out,self.err

def program(folder, name, *args, **env):
    "Start one of the package's commands, as its console script does; see `Child`"
    return Child(folder, run_script, shutil.which(name, path=str(Path(sys.executable).parent)), *map(str,args), **env)

"""Processes that can be interrupted and killed, all children of one that has imported everything before: a dozen imports of PyTorch would take longer than what is tested.
Where processes cannot be forked so (Windows, macOS) each child imports for itself."""
import multiprocessing as mp,os,runpy,shutil,signal,subprocess,sys,time
from pathlib import Path

context = mp.get_context('forkserver' if sys.platform=='linux' else 'spawn')
if sys.platform=='linux': context.set_forkserver_preload(['pytest','manga_colorize.all','torch._dynamo'])   # the last by every optimizer's first step
posix = os.name=='posix'

def _begin(f, args, out, err, env):
    "What a shell does for a program: a session of its own, Ctrl-C as usual, files for what is said"
    if posix: os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)   # whatever the runner ignores
    os.environ.update(env)
    for stream,path in ((sys.stdout,out),(sys.stderr,err)): os.dup2(os.open(path, os.O_WRONLY|os.O_CREAT|os.O_APPEND), 1 if path==out else 2)
    sys.stdout,sys.stderr = open(1,'w',encoding='utf-8',buffering=1,closefd=False),open(2,'w',encoding='utf-8',buffering=1,closefd=False)
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
        self.process = context.Process(target=_begin, args=(f,args,*map(str,self.files),env)); self.process.start()
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
            assert time.monotonic()<end, ('waited in vain', self.out, self.err)
            time.sleep(.005)
        return self
    def interrupt(self): os.killpg(self.pid, signal.SIGINT); return self   # as a terminal does: the whole group
    def kill(self): self.process.kill(); return self
    def end(self, seconds=60):
        "Wait for the end: exit code, and what was said"
        self.process.join(seconds); assert not self.process.is_alive(), ('it does not end', self.out, self.err)
        return self.returncode,self.out,self.err

def program(folder, name, *args, **env):
    "Start one of the package's commands, as its console script does; see `Child`"
    return Child(folder, run_script, shutil.which(name, path=str(Path(sys.executable).parent)), *map(str,args), **env)

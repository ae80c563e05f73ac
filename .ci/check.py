"Everything `make test` checks, in order; stops at the first failure"
import os, shutil, subprocess, sys, time
from pathlib import Path

root = Path(__file__).resolve().parent.parent

def command(name):
    "A program of the environment that runs this"
    return shutil.which(name, path=str(Path(sys.executable).parent)) or name

def run(what, *cmd):
    print(f'== {what}', flush=True)
    start = time.perf_counter()
    if subprocess.run(cmd, cwd=root).returncode: sys.exit(f'FAILED: {what} ({" ".join(cmd)})')
    print(f'   {time.perf_counter()-start:.0f} s', flush=True)

def state(): return [subprocess.run(['git',*a], cwd=root, capture_output=True).stdout for a in (('diff',),('status','--porcelain'))]

def unchanged(what, *cmd):
    before = state()
    run(what, *cmd)
    if state()!=before:
        subprocess.run(['git','--no-pager','diff','--stat'], cwd=root)
        sys.exit(f"FAILED: {what} changed files. Run 'make export' and commit what it changes")

if __name__=='__main__':
    if not shutil.which('git'): sys.exit('git is missing: the export check compares files with it')
    unchanged('the library is what the notebooks export', command('nbdev_export'))
    unchanged('the notebooks are clean', command('nbdev_clean'))
    run('imports run one way', command('lint-imports'))
    run('README.md is what nbs/index.ipynb gives', sys.executable, '.ci/readme.py', '--check')
    os.environ.update(OMP_NUM_THREADS='1', MPLBACKEND='agg')  # two notebooks at a time, one thread each
    run('every notebook runs', command('nbdev_test'), '--n_workers', '2', '--do_print')
    run('tests', sys.executable, '-m', 'pytest', '-q')

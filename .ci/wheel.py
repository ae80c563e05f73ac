"Build the wheel, install it with the newest fastai in an environment of its own, and colour a sketch there"
import os, subprocess, sys, tempfile, venv, zipfile
from pathlib import Path

root = Path(__file__).resolve().parent.parent
needed = ('manga_colorize/all.py', 'manga_colorize/static/', 'manga_colorize/weights/',
          *(f'manga_colorize/lessons/{f}' for f in ('index.ipynb', 'course/01_the_whole_road.ipynb', 'images/painter.jpg', 'images/longer/')))

def run(*cmd, cwd=None):
    print('$', *map(str, cmd), flush=True)
    subprocess.run([str(c) for c in cmd], cwd=cwd, check=True)

def build(dst):
    "Build the wheel and check that what is not code is in it too"
    run(sys.executable, '-m', 'build', '--wheel', '--outdir', dst, root)
    wheel = next(dst.glob('*.whl'))
    names = zipfile.ZipFile(wheel).namelist()
    missing = [n for n in needed if not any(m.startswith(n) for m in names)]
    if missing: sys.exit(f'FAILED: {wheel.name} lacks {missing}')
    return wheel

def main():
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        wheel = build(d/'dist')
        venv.create(d/'env', with_pip=True)
        bin = d/'env'/('Scripts' if os.name=='nt' else 'bin')
        run(bin/'python', '-m', 'pip', 'install', '-q', '--disable-pip-version-check', '--upgrade', '--upgrade-strategy', 'eager', wheel)
        run(bin/'python', root/'.ci'/'smoke.py', cwd=d)
        run(bin/'manga-course', d/'lessons', cwd=d)
        lessons = sorted(p.name for p in (d/'lessons').glob('*.ipynb'))
        if lessons[0]!='01_the_whole_road.ipynb' or len(lessons)!=16: sys.exit(f'FAILED: manga-course laid out {lessons}')
    print('1 passed, 0 failed')

if __name__=='__main__': main()

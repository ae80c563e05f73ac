"Render README.md from nbs/index.ipynb with nbconvert; with --check, say whether it is up to date"
import argparse, re, sys
from pathlib import Path
import nbformat
from nbconvert import MarkdownExporter

root = Path(__file__).resolve().parent.parent
index,readme,images = root/'nbs'/'index.ipynb',root/'README.md',root/'nbs'/'images'

def visible(nb):
    "Drop hidden cells and Quarto directives"
    nb.cells = [c for c in nb.cells if not re.search(r'^#\|\s*(hide|default_exp)\s*$', c.source, re.M)]
    for c in nb.cells: c.source = re.sub(r'^#\|.*\n', '', c.source, flags=re.M)
    nb.metadata.language_info = {'name':'python'}
    return nb

def alts(nb):
    "The alt text of each picture that a cell has drawn, in order"
    shown = [(o,kind) for c in nb.cells for o in c.get('outputs', []) for kind in o.get('data', {}) if kind.startswith('image/')]
    return [o.metadata.get(kind, {}).get('alt') or 'A picture' for o,kind in shown]

def render():
    "The README's text and its pictures by path below `nbs/images`"
    nb = visible(nbformat.read(index, 4))
    body,resources = MarkdownExporter().from_notebook_node(nb)
    pictures = {f'readme{i or ""}{Path(name).suffix}': data for i,(name,data) in enumerate(resources['outputs'].items())}
    for new,old in zip(pictures, resources['outputs']): body = body.replace(f'({old})', f'(nbs/images/{new})')
    body = re.sub(r'\]\((?!https?:|#|nbs/|\.\./)([^)]+\.ipynb)\)', r'](nbs/\1)', body).replace('](../', '](')
    body = body.replace('](images/', '](nbs/images/')
    drawn = iter(alts(nb))
    body = re.sub(r'!\[(png|jpeg|svg)\]', lambda m: f'![{next(drawn)}]', body)
    return re.sub(r'\n{3,}', '\n\n', re.sub(r'[ \t]+$', '', body, flags=re.M)).strip()+'\n', pictures

def main():
    p = argparse.ArgumentParser(description=__doc__); p.add_argument('--check', action='store_true')
    check = p.parse_args().check
    body,pictures = render()
    if not pictures: sys.exit('nbs/index.ipynb has no picture: run it first')
    same = readme.read_text(encoding='utf-8')==body and all((images/n).exists() and (images/n).read_bytes()==d for n,d in pictures.items())
    if check: sys.exit(0 if same else "README.md differs from nbs/index.ipynb: run 'make readme'")
    images.mkdir(exist_ok=True)
    for name,data in pictures.items(): (images/name).write_bytes(data)
    readme.write_text(body, encoding='utf-8', newline='\n')

if __name__=='__main__': main()

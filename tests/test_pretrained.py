"Models from the package and from a hub on localhost: what is asked for, refused, kept, and said without a network"
import hashlib,json,os,sys
from functools import partial
from http.server import BaseHTTPRequestHandler,ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import numpy as np,pytest,safetensors.torch as st,torch
from PIL import Image

from children import Child
from fixtures import same as equal
from manga_colorize.cues.blur import blur_cue
from manga_colorize.sketches.sketchify import sketchify
from manga_colorize.world.artist import World
import manga_colorize.world.pages # gives a World its pages
from manga_colorize.evaluate.adherence import rgb_to_lab
from manga_colorize.evaluate.color_metrics import colourfulness
from manga_colorize.evaluate.metrics import psnr
from manga_colorize.pix2pix.networks import Pix2Pix,UnetGenerator
from manga_colorize.colorizer import pretrained
from manga_colorize.colorizer.colorizer import Colorizer
from manga_colorize.commands.colorize import manga_colorize
from manga_colorize.chapters.color_page import color_page
from manga_colorize.colorizer.pretrained import embedded_models,embedded_folder,model_card,open_model

def tiny(seed=0, **config):
    torch.manual_seed(seed)
    return Colorizer(Pix2Pix(UnetGenerator(4, ngf=2, n_down=2)), config)

def sketch(h=40, w=50): return (np.random.default_rng(0).random((h,w))>.1).astype(np.uint8)*255
def same(a, b): return equal(a(sketch()), b(sketch()))

# --- the model in the package

@pytest.fixture
def shipped(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, 'embedded_folder', lambda name='studio': tmp_path/'weights')
    return tmp_path/'weights'

def test_where_it_lies():
    assert embedded_folder().parts[-3:]==('manga_colorize','weights','studio') and embedded_folder('cyclegan').parent.is_dir()
    with pytest.raises(ValueError, match='expected one of studio, cyclegan'): embedded_folder('other')

def test_without_weights_it_says_what_to_do(shipped):
    with pytest.raises(ValueError, match='manga-demo'): Colorizer.from_pretrained()

def test_the_embedded_model(shipped):
    paint = tiny(seen=7); paint.save(shipped)
    again = Colorizer.from_pretrained(device='cpu')
    assert same(paint,again) and again.config['seen']==7 and str(again.device)=='cpu'
    (shipped/'model.safetensors').write_bytes(b'x')
    with pytest.raises(ValueError, match='damaged'): Colorizer.from_pretrained()

def test_the_command_takes_it(shipped, tmp_path, capsys):
    tiny().save(shipped); Image.fromarray(sketch()).save(tmp_path/'a.png')
    manga_colorize([str(tmp_path/'a.png')], out=str(tmp_path/'out'))
    assert np.array_equal(np.array(Image.open(tmp_path/'out'/'a_color.png')), np.array(tiny()(sketch())))

# --- half precision

def test_half_is_half_and_loads_as_32_bits(tmp_path):
    paint = tiny(); paint.save(tmp_path/'whole'); paint.save(tmp_path/'half', half=True)
    state = st.load_file(tmp_path/'half'/'model.safetensors')
    assert {v.dtype for v in state.values()}=={torch.float16,torch.int64}
    again = Colorizer.load(tmp_path/'half')
    for k,v in again.model.state_dict().items():
        own = paint.model.state_dict()[k]
        assert v.dtype==own.dtype and (v==own.half().to(own)).all()
    gap = np.abs(np.array(again(sketch())).astype(int)-np.array(paint(sketch())))
    assert gap.max()<=2
    again.save(tmp_path/'again', half=True)
    assert equal((tmp_path/'again'/'model.safetensors').read_bytes(), (tmp_path/'half'/'model.safetensors').read_bytes())
    assert {v.dtype for v in paint.model.state_dict().values() if v.is_floating_point()}=={torch.float32}, 'the model itself is left as it is'

def test_weights_too_large_for_half_are_refused(tmp_path):
    paint = tiny(); next(iter(paint.model.parameters())).data[0,0,0,0] = 1e5
    with pytest.raises(ValueError, match='65504'): paint.save(tmp_path, half=True)
    assert not list(tmp_path.iterdir())

# --- names

@pytest.mark.parametrize('name', ['model','a/b/c','../a','a/..','./a','a/b?x','a/b\n','https://huggingface.co/a/b','a//b','','/a','a/','-a/b','a b/c',7,
                                  Path('a/b')], ids=str)
def test_names_are_checked_before_anything_is_sent(name, monkeypatch):
    monkeypatch.setattr(pretrained, '_hub', lambda: pytest.fail('asked the hub'))
    for f in (Colorizer.from_pretrained,tiny().push_to_hub):
        with pytest.raises(ValueError, match='owner/name'): f(name)

def test_without_huggingface_hub_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    for f in (pretrained._hub,lambda: tiny().push_to_hub('a/b'),lambda: Colorizer.from_pretrained('a/b')):
        with pytest.raises(ImportError, match=r'manga_colorize\[hub\]'): f()

# --- a hub on localhost

class Hub:
    "Repositories of files, by commit, as the hub serves them"
    def __init__(self):
        self.repos,self.asked,self.fault,hub = {},[],None,self
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args): pass
            def refuse(self, code, why):
                self.send_response(code); self.send_header('X-Error-Code', why); self.send_header('Content-Length', '0'); self.end_headers()
            def do_GET(self, body=True):
                if hub.fault=='cut': return self.connection.close()
                if hub.fault: return self.refuse(hub.fault, '')
                owner,name,_,revision,file = self.path.split('?')[0].strip('/').split('/',4)
                hub.asked.append((self.command,file,revision)); commits = hub.repos.get(f'{owner}/{name}')
                if commits is None: return self.refuse(401, 'RepoNotFound')
                commit = list(commits)[-1] if revision=='main' else revision
                if commit not in commits: return self.refuse(404, 'RevisionNotFound')
                data = commits[commit].get(file)
                facts = {'X-Error-Code':'EntryNotFound'} if data is None else {'ETag':f'"{hashlib.sha1(data).hexdigest()}"'}
                self.send_response(404 if data is None else 200)
                for k,v in {'X-Repo-Commit':commit, 'Content-Length':len(data or b''), **facts}.items(): self.send_header(k,str(v))
                self.end_headers()
                if body and data: self.wfile.write(data)
            def do_HEAD(self): self.do_GET(body=False)
        self.server = ThreadingHTTPServer(('127.0.0.1',0), Handler); self.url = f'http://127.0.0.1:{self.server.server_port}'
        Thread(target=self.server.serve_forever, daemon=True).start()

    def push(self, name, paint, tmp, **more):
        folder = paint.save(tmp/f'push{len(self.asked)}-{id(paint)}', half=True)
        commit = hashlib.sha1(str((name,len(self.repos.get(name,())))).encode()).hexdigest()
        self.repos.setdefault(name,{})[commit] = {**{p.name:p.read_bytes() for p in folder.iterdir()}, 'evil.py':b'x', 'pytorch_model.bin':b'\x80', **more}
        return commit

    def close(self): self.server.shutdown(); self.server.server_close()

@pytest.fixture
def hub(monkeypatch, tmp_path):
    hf = pytest.importorskip('huggingface_hub')
    monkeypatch.setattr('time.sleep', lambda seconds: None) # the client waits between its tries
    hub = Hub()
    get = partial(hf.hf_hub_download, endpoint=hub.url, cache_dir=tmp_path/'cache', token=False, etag_timeout=2)
    monkeypatch.setattr(pretrained, '_hub', lambda: SimpleNamespace(hf_hub_download=get))
    yield hub
    hub.close()

def halved(paint, tmp): return Colorizer.load(paint.save(tmp/'halved', half=True))

def test_two_files_of_one_commit_and_nothing_else(hub, tmp_path):
    paint = tiny(); commit = hub.push('some-one/painter', paint, tmp_path)
    again = Colorizer.from_pretrained('some-one/painter')
    assert same(again, halved(paint, tmp_path))
    assert {f for _,f,_ in hub.asked}=={'config.json','model.safetensors'}
    assert {r for _,f,r in hub.asked if f=='model.safetensors'}=={commit}
    assert sorted(p.name for p in (tmp_path/'cache').rglob('*') if p.suffix in ('.py','.bin'))==[]

def test_revisions_and_a_newer_model(hub, tmp_path):
    old,new = tiny(0),tiny(1)
    first = hub.push('a/b', old, tmp_path)
    assert same(Colorizer.from_pretrained('a/b'), halved(old, tmp_path))
    hub.push('a/b', new, tmp_path)
    assert same(Colorizer.from_pretrained('a/b'), halved(new, tmp_path))
    assert same(Colorizer.from_pretrained('a/b', revision=first), halved(old, tmp_path))
    with pytest.raises(ValueError, match="expected a branch, tag or commit of 'a/b', got 'v9'"): Colorizer.from_pretrained('a/b', revision='v9')

def test_a_second_time_nothing_is_downloaded(hub, tmp_path):
    hub.push('a/b', tiny(), tmp_path); Colorizer.from_pretrained('a/b'); hub.asked.clear()
    Colorizer.from_pretrained('a/b')
    assert not [x for x in hub.asked if x[0]=='GET']

def test_without_a_network_the_copy_serves(hub, tmp_path):
    paint = tiny(); commit = hub.push('a/b', paint, tmp_path); Colorizer.from_pretrained('a/b')
    hub.close()
    assert same(Colorizer.from_pretrained('a/b'), halved(paint, tmp_path))
    assert same(Colorizer.from_pretrained('a/b', revision=commit), halved(paint, tmp_path))
    for name,revision in (('a/other',None),('a/b','f'*40)):
        with pytest.raises(ConnectionError, match='earlier copy'): Colorizer.from_pretrained(name, revision)

@pytest.mark.parametrize('fault', ['cut',500,403,429], ids=str)
def test_a_hub_in_trouble(hub, tmp_path, fault):
    paint = tiny(); hub.push('a/b', paint, tmp_path); Colorizer.from_pretrained('a/b')
    hub.fault = fault
    assert same(Colorizer.from_pretrained('a/b'), halved(paint, tmp_path))
    with pytest.raises(ConnectionError, match='earlier copy'): Colorizer.from_pretrained('a/other')

def test_what_is_not_there_is_named(hub, tmp_path):
    with pytest.raises(ValueError, match="'a/none': there is none, or you may not read it"): Colorizer.from_pretrained('a/none')
    commit = hub.push('a/b', tiny(), tmp_path)
    for lost in ('model.safetensors','config.json'):
        del hub.repos['a/b'][commit][lost]
        with pytest.raises(ValueError, match='lacks one'): Colorizer.from_pretrained('a/b')

@pytest.mark.parametrize('file,data,why', [
    ('model.safetensors', b'\x80evil pickle', 'pickled'), ('model.safetensors', b'damaged bytes', 'damaged'),
    ('config.json', b'{"format": 1, "model": {"arch": "os.system"}, "sha256": "0"}', 'expected'),
    ('config.json', b'[1]', 'config of a model'), ('config.json', b'no JSON', 'expected JSON')], ids=str)
def test_what_a_stranger_may_serve_is_refused(hub, tmp_path, file, data, why):
    hub.push('a/b', tiny(), tmp_path, **{file:data})
    with pytest.raises(ValueError, match=why): Colorizer.from_pretrained('a/b')

def load_and_tell(name): print(Colorizer.from_pretrained(name))

def test_by_the_environment_as_people_use_it(hub, tmp_path):
    "In a process of its own: HF_ENDPOINT, then HF_HUB_OFFLINE with the copy"
    hub.push('a/b', tiny(), tmp_path)
    def run(name, **env): return Child(tmp_path, load_and_tell, name, HF_HOME=str(tmp_path/'home'), HF_ENDPOINT=hub.url, **env).end()
    code,online,err = run('a/b')
    assert 'Colorizer(pix2pix' in online, err
    code,offline,err = run('a/b', HF_HUB_OFFLINE='1')
    assert offline==online, err
    code,_,err = run('a/other', HF_HUB_OFFLINE='1')
    assert code and 'ConnectionError' in err and 'earlier copy' in err

# --- pushing

class Api:
    "Keeps what it is given"
    def __init__(self): self.made,self.files = None,{}
    def create_repo(self, name, private, exist_ok): self.made = (name,private,exist_ok)
    def upload_folder(self, repo_id, folder_path, commit_message):
        self.files = {p.name:p.read_bytes() for p in Path(folder_path).iterdir()}; self.message = commit_message
        return SimpleNamespace(commit_url=f'https://hub/{repo_id}/commit/1')

def test_push_gives_three_files_in_one_commit(monkeypatch, tmp_path):
    api = Api(); monkeypatch.setattr(pretrained, '_hub', lambda: SimpleNamespace(HfApi=lambda: api))
    paint = tiny(data=dict(kind='world'), figures=dict(psnr=22.1))
    assert paint.push_to_hub('a/b', private=True, message='Better skies')=='https://hub/a/b/commit/1'
    assert api.made==('a/b',True,True) and api.message=='Better skies'
    assert sorted(api.files)==['README.md','config.json','model.safetensors']
    for k,v in api.files.items(): (tmp_path/k).write_bytes(v)
    assert same(Colorizer.load(tmp_path), halved(paint, tmp_path)) and '22.1' in api.files['README.md'].decode()

def push_without_a_login(): tiny().push_to_hub('a/b')

def test_a_real_client_without_a_login_uploads_nothing(tmp_path, monkeypatch):
    "Whatever its user has set: the child inherits what is left"
    pytest.importorskip('huggingface_hub')
    for k in [k for k in os.environ if k.startswith('HF_') or k=='HUGGING_FACE_HUB_TOKEN']: monkeypatch.delenv(k)
    hub = Hub()
    code,_,err = Child(tmp_path, push_without_a_login, HF_HOME=str(tmp_path), HF_HUB_OFFLINE='1', HF_ENDPOINT=hub.url).end(); hub.close()
    assert code and not hub.asked and 'huggingface_hub' in err

# --- the card

def head(card):
    import yaml
    return yaml.safe_load(card.split('---\n')[1])

def test_the_card_says_what_the_config_knows():
    known = dict(data=dict(kind='world', pictures=9000, world=0, cast=None), protocol=dict(size=256, cue='mixed', sketch=dict(c=2)))
    card = model_card(tiny(seen=1234567, training=dict(epochs=30), figures={'real art':dict(psnr=22.1)}, **known), 'a/b')
    assert head(card)['license']=='apache-2.0' and head(card)['library_name']=='manga_colorize'
    for said in ("No one's art",'| pictures | 9000 |','| sketch.c | 2 |','| epochs | 30 |','1,234,567','| real art.psnr | 22.1 |',"from_pretrained('a/b')"):
        assert said in card, said
    assert 'None' not in card

def test_the_card_promises_nothing_it_does_not_know():
    for config in ({}, dict(data=dict(kind='folder')), dict(data=dict(kind='mixed', world=0))):
        card = model_card(tiny(**config))
        assert "No one's art" not in card and head(card)['license']=='unknown' and 'No figures yet' in card and 'Nothing was written down' in card
    assert head(model_card(tiny(), licence='mit'))['license']=='mit'

def test_strange_words_stay_in_their_cell():
    card = model_card(tiny(data=dict(kind='folder', folder='a|b\n# c')))
    assert '| folder | a/b # c |' in card

# --- what ships

@pytest.mark.parametrize('name', embedded_models)
def test_what_ships_is_nobodys_art(name):
    "Trained on pictures of the World alone, with its figures beside it"
    config = json.loads((embedded_folder(name)/'config.json').read_text(encoding='utf-8'))
    assert config['data']['kind']=='world' and config['seen']>10_000 and config['figures']
    assert "No one's art went in" in model_card(Colorizer.from_pretrained(name, device='cpu'))

def test_what_ships_is_small():
    "At most 10 MB, the describer among it"
    files = list(embedded_folder().parent.rglob('*.safetensors'))
    assert {f.parent.name for f in files}=={*embedded_models,'describer'} and sum(f.stat().st_size for f in files)<=10e6

def test_the_cyclegan_that_ships_paints():
    "A printed page takes several colours, the same every time; no cue changes it"
    page = World(seed=1950).page(4, size=(500,354)); paint = open_model('cyclegan'); fake = color_page(page.bw, paint)
    assert np.array_equal(fake, color_page(page.bw, paint)) and colourfulness(fake)>.3*colourfulness(page.color)
    ab = rgb_to_lab(fake[page.identities>0])[:,1:]
    assert ab.std(0).min()>4, 'more than one tint'
    panel = page.bw[:200,:200]; assert equal(paint(panel), paint(panel, np.full((200,200,4), (255,0,0,255), np.uint8)))
    assert 'strokes' not in model_card(paint) and 'color_page' in model_card(paint)

def test_open_model(tmp_path, monkeypatch):
    "None, a name, a folder; a folder of that name comes first"
    assert same(open_model(),Colorizer.from_pretrained()) and open_model('cyclegan').config['model']['arch']=='cyclegan'
    monkeypatch.chdir(tmp_path); (tmp_path/'cyclegan').mkdir()
    assert open_model('cyclegan').config['model']['arch']=='cyclegan', 'an empty folder is no model'
    tiny(seen=3).save(tmp_path/'cyclegan')
    assert open_model('cyclegan').config['seen']==3==open_model(tmp_path/'cyclegan').config['seen']
    with pytest.raises(ValueError, match='expected a folder'): open_model('no/such')

def test_what_ships_paints():
    "Blurred colours of a stranger come out nearer to the picture than they went in; the same page every time"
    color = World(seed=1950).illustration(5).color; paint = Colorizer.from_pretrained(device='cpu')
    cue = blur_cue(color); page = paint(sketchify(color), cue)
    assert psnr(page, color)>psnr(cue[...,:3], color)+2 and equal(page, paint(sketchify(color), cue))

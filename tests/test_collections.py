"Collections: each layout whole and damaged, nothing leaves the folder, lists are read a line at a time"
import json,os,tracemalloc
from pathlib import Path

import numpy as np,pytest
from PIL import Image
from fixtures import encode,picture
from manga_colorize.dataset.collections import BooruManifest,CiPairs,Danbooru20xx,HuggingFaceFolder,NicoIllust,json_objects,open_source
from manga_colorize.dataset.build import build_dataset,read_metadata
from manga_colorize.dataset.metadata import as_list,inside
from manga_colorize.dataset.reading import Refused
from manga_colorize.dataset.sources import Drawn,Folder
from manga_colorize.world.artist import World

def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(data, (list,tuple)): data = '\n'.join(x if isinstance(x,str) else json.dumps(x, ensure_ascii=False) for x in data)+'\n'
    path.write_bytes(data if isinstance(data,bytes) else data.encode('utf-8') if isinstance(data,str)
                     else encode(data,'JPEG' if path.suffix=='.jpg' else 'PNG'))

def why(source, key):
    try: source.load(key, 32); return 'read'
    except Refused as e: return str(e)

def post(i, who=('mia',), **more):
    return dict(file_name=f'images/{i}.png', id=i, md5='0'*32,
                tags=dict(general=['1girl','smile'], character=list(who), copyright=['tale'], artist=['ann'], meta=['highres']),
                artist='ann', source=f'https://example.org/{i}', rating='g', license='unknown', width=96, height=96) | more

@pytest.fixture
def booru(tmp_path):
    d = tmp_path/'booru'
    for i in range(4): put(d/f'images/{i}.png', picture(i))
    put(d/'manifest.jsonl', [post(i) for i in range(4)])
    put(d/'query.json', json.dumps(dict(booru='Test', tags='1girl', rating='g', token='secret'), indent=1))
    return d

# --- downloads

def test_booru_facts(booru):
    s = open_source(booru); got = list(s)
    assert type(s) is BooruManifest and [k for k,_ in got]==[f'images/{i}.png' for i in range(4)]
    assert got[1][1]==dict(tags=['1girl','smile'], characters=['mia'], series=['tale'], artist='ann', rating='g', license='unknown',
                           url='https://example.org/1', width=96, height=96)
    assert s.recipe()==dict(kind='booru', folder='booru', at=s.recipe()['at'], booru='Test', tags='1girl', rating='g')
    np.testing.assert_array_equal(s.load('images/2.png',32)[0], picture(2))

outside = ['../x.png','/etc/x.png','images/../../x.png','C:\\x.png','C:x.png','..\\x.png','\\\\host\\x.png','images/\0.png','.','..','']
def test_nothing_leaves_the_folder(booru):
    put(booru.parent/'x.png', picture(9))
    put(booru/'manifest.jsonl', [post(0)]+[post(10+i, file_name=f) for i,f in enumerate(outside)]+[post(1)])
    s = open_source(booru); got = [k for k,_ in s]
    assert got[0]=='images/0.png' and got[-1]=='images/1.png' and len(got)==len(set(got))>=9
    assert {why(s,k) for k in got[1:-1]}=={'outside the folder'} and all(s.name(k).replace('-','').isalnum() for k in got)
    for f in outside:
        with pytest.raises(Refused, match='outside'): inside(f)
        with pytest.raises(Refused): s.load(f, 32)

damaged = ['{"file_name": "images/2.p','nonsense','[]','null','7','{}','{"file_name": null, "tags": {}}','{"file_name": 3, "tags": {}}',
           '{"file_name": "images/3.png"}',
           '{"file_name": "images/3.png", "tags": 5}','{"file_name": "images/3.png", "tags": ["a"]}','['*99999,'{"a":'*99999,'"'+'x'*99999,
           '{"file_name": NaN, "tags": {}}']
def test_damaged_lines_are_reported_once(booru):
    put(booru/'manifest.jsonl', '\n'.join([json.dumps(post(0)),*damaged,'','  ',json.dumps(post(1))]).encode()+b'\n\xff\xfe{"file\n'+b'\0'*50+b'\n')
    s = open_source(booru); got = [k for k,_ in s]; bad = [k for k in got if k.startswith('manifest')]
    assert len(bad)==len(damaged)+2 and [k for k in got if k not in bad]==['images/0.png','images/1.png'] and bad[0]=='manifest.jsonl:2'
    assert {why(s,k) for k in bad}=={'damaged line'} and got==[k for k,_ in s]

def test_listed_twice_and_missing(booru):
    put(booru/'manifest.jsonl', [post(0),post(1),post(0,who=['other']),post(0,file_name='./images/0.png'),post(77)]); s = open_source(booru)
    assert {k:why(s,k) for k,_ in s}=={'images/0.png':'read','images/1.png':'read','images/77.png':'vanished'}

def test_odd_text_can_be_stored(booru):
    put(booru/'manifest.jsonl', ['\ufeff'+json.dumps(post(0,who=['漫画','\ud800']))]); (_,facts), = open_source(booru)
    json.dumps(facts, ensure_ascii=False).encode('utf-8'); assert facts['characters']==['漫画','?']

def test_an_unreadable_list_is_an_error(booru):
    (booru/'manifest.jsonl').unlink(); s = BooruManifest(booru)
    with pytest.raises(ValueError, match='expected a list'): list(s)

def test_lists_are_read_line_by_line(booru):
    def peak(n):
        put(booru/'manifest.jsonl', [post(i) for i in range(n)]); s = BooruManifest(booru); tracemalloc.start(); m = sum(1 for _ in s)
        size = tracemalloc.get_traced_memory()[1]; tracemalloc.stop(); assert m==n
        return size
    peak(9); a,b = peak(1000),peak(9000); print(f'{a} bytes for 1,000 lines, {b} for 9,000'); assert b-a<8000*150

# --- Hugging Face

def test_imagefolders_of_all_kinds(tmp_path):
    for n in ('train/a.png','train/deep/b.png','test/c.png'): put(tmp_path/n, picture(1))
    put(tmp_path/'train/metadata.jsonl', [dict(file_name='a.png', character='mia', tags='1girl, long hair', source='ignored'),
                                          dict(file_name='deep/b.png', characters=[3,4], style='soft')])
    put(tmp_path/'test/metadata.csv', 'file_name,artist,license,tags\r\nc.png,"Ann, B.",CC0,"[""x"", ""y""]"\r\nonly one\r\n')
    s = open_source(tmp_path); got = dict(s)
    assert type(s) is HuggingFaceFolder and got=={'test/c.png':dict(artist='Ann, B.', license='CC0', tags=['x','y']), 'test/only one':{},
        'train/a.png':dict(characters=['mia'], tags=['1girl','long hair']), 'train/deep/b.png':dict(characters=[3,4], style='soft')}
    assert [why(s,k) for k in got]==['read','vanished','read','read']

def test_metadata_above_and_csv_trouble(tmp_path):
    put(tmp_path/'images/a.png', picture(1)); put(tmp_path/'metadata.csv', 'name,text\na.png,b\n'); s = open_source(tmp_path)
    assert [why(s,k) for k,_ in s]==['damaged line']
    put(tmp_path/'metadata.csv', b'\xef\xbb\xbffile_name,tags\nimages/a.png,\xff\n'+b'x'*200_000+b'\n../up.png,\n'); s = open_source(tmp_path)
    assert [why(s,k) for k,_ in s]==['read','damaged line','outside the folder']
    put(tmp_path/'metadata.jsonl', [dict(file_name='images\\a.png')])
    assert [k for k,_ in open_source(tmp_path)]==['images/a.png'] # lists from Windows; JSON goes first

def test_our_own_data_sets_with_sketches(tmp_path):
    for i in range(6): put(tmp_path/f'in/color/{i}.png', picture(i,80,120)); put(tmp_path/f'in/0/{i}.png', np.full((80,120,3), 40*i, np.uint8))
    build_dataset(tmp_path/'in', tmp_path/'a', size=64); build_dataset(tmp_path/'a', tmp_path/'b', size=64, seed=3)
    a,b = read_metadata(tmp_path/'a'),read_metadata(tmp_path/'b')
    assert len(a)==len(b)==6 and {f['phash'] for f in a}=={f['phash'] for f in b} and all('sketch' in f for f in b)

def test_odd_fields_become_text(tmp_path):
    put(tmp_path/'a.png', picture(1)); put(tmp_path/'metadata.jsonl',
            ['{"file_name": "a.png", "artist": ["x","y"], "rating": NaN, "license": {"a": 1}, "style": true, "tags": {"b": 2}, "characters": [[1], null, 2.5]}'])
    (_,facts), = open_source(tmp_path); assert facts==dict(tags=["{'b': 2}"], characters=['[1]','2.5'], artist='x, y', style=True, rating='nan',
                                                           license="{'a': 1}")

# --- Danbooru20xx

def old(i, who=('mia',), **more):
    return dict(id=str(i), rating='s', file_ext='png', is_deleted=False, is_banned=False, source='', image_width='96',
                tags=[dict(id='1',name='1girl',category='0'),dict(id='2',name='ann',category='1'),dict(id='3',name='tale',category='3'),
                      *(dict(id='4',name=w,category='4') for w in who)]) | more
def new(i, who='mia', **more):
    return dict(id=i, rating='g', file_ext='png', is_deleted=False, tag_string_general='1girl smile', tag_string_artist='ann',
                tag_string_copyright='tale', tag_string_character=who) | more

def test_danbooru20xx(tmp_path):
    for p in ('original/0123/1000123.png','original/0007/7.png','512px/0456/2456.jpg','original/0001/1.png','original/0002/2.mp4'):
        put(tmp_path/p, picture(1) if not p.endswith('4') else b'x')
    put(tmp_path/'metadata/2017/2017000000000000.json', [old(1000123,['mia','eve']),old(2456),old(1,rating='e'),'{"id": "7", "ra',old(8)])
    put(tmp_path/'metadata/posts000000000000.json',
        [new(7),new(7,is_deleted=True),new(2,file_ext='mp4'),new(1,rating='q'),new('x'),new(1,is_banned='true'),new(1,file_ext='/../../x.png')])
    put(tmp_path/'metadata/tags000000000000.json', [dict(id=1,name='1girl')]); (tmp_path/'metadata/notes.json').write_text('?')
    s = open_source(tmp_path); got = dict(s)
    assert type(s) is Danbooru20xx and list(got)==[k for k,_ in s]
    assert {k:why(s,k) for k in got}=={'original/0007/7.png':'read','metadata/posts000000000000.json:5':'damaged line','original/0123/1000123.png':'read',
                                       '512px/0456/2456.jpg':'read','metadata/2017/2017000000000000.json:4':'damaged line'}
    assert got['original/0123/1000123.png']==dict(tags=['1girl'], characters=['mia','eve'], series=['tale'], artist='ann', rating='s')
    assert got['original/0007/7.png']==dict(tags=['1girl','smile'], characters=['mia'], series=['tale'], artist='ann', rating='g')
    assert 'original/0001/1.png' in dict(Danbooru20xx(tmp_path, ratings='gsqe')) and s.recipe()['ratings']=='gs'

# --- Nico-illust

def test_nico(tmp_path):
    for p in ('dataset_003/355141.jpg','dataset_003/355210.jpg','dataset_004/400.jpg'): put(tmp_path/p, picture(1))
    put(tmp_path/'meta_003.json', '{"image_id":355141,"tag_ids":[6,9],"user_id":11}{"image_id":355210,\n"tag_ids":[6]}{"image_id": 5, "tag_ids": []}')
    put(tmp_path/'meta_004.json', '[{"image_id":400,"tag_ids":[77]},\n{"image_id":"x"},\n{"image_id":4')
    put(tmp_path/'tags.json', [dict(tag_id=6,name='描いてみた'),dict(tag_id=9,name='帽子'),dict(no=1)])
    s = open_source(tmp_path); got = dict(s)
    assert type(s) is NicoIllust and {k:why(s,k) for k in got}=={'dataset_003/355141.jpg':'read','dataset_003/355210.jpg':'read',
            'dataset_004/400.jpg':'read','meta_004.json:2':'damaged line','meta_004.json:3':'damaged line'}
    assert got['dataset_003/355141.jpg']==dict(tags=['描いてみた','帽子'], artist='11', url='https://seiga.nicovideo.jp/seiga/im355141') and got['dataset_004/400.jpg']['tags']==['77']

@pytest.mark.parametrize('text,n', [('',0),('{"a":1}{"a":2}',2),('[{"a":1},{"a":2}]',2),('{"a":1}\n\n{"a":2}\n',2),('x{"a":{"b":2}}',1)])
def test_json_objects(text, n): assert len(list(json_objects(text)))==n

# --- pairs

def test_pairs(tmp_path):
    for i in range(8): put(tmp_path/f'color/{i}.png', picture(i,60,80))
    for i in range(7): put(tmp_path/f'{i%2}/{i}.png', np.full((60,80,3), 10*i, np.uint8))
    put(tmp_path/'1/0.png', np.full((60,80,3), 200, np.uint8)); put(tmp_path/'0/3.png', picture(1,60,200)); (tmp_path/'1/3.png').unlink()
    put(tmp_path/'0/4.png', np.full((120,161,3), 44, np.uint8)); put(tmp_path/'1/5.png', b'broken'); put(tmp_path/'loose.png', picture(1))
    s = open_source(tmp_path)
    assert type(s) is CiPairs and [k for k,_ in s]==[f'color/{i}.png' for i in range(8)]
    assert [why(s,f'color/{i}.png') for i in range(8)]==['read']*3+['sketch of another shape','read','not a picture','read','no sketch']
    for i in (1,2,4,6):
        color,more = s.load(f'color/{i}.png',32); assert more['sketch'].shape==(60,80) and more['sketch'].dtype==np.uint8 and (more['sketch']==(44 if i==4 else 10*i)).all()
    assert len({s.load('color/0.png',32)[1]['sketch'][0,0] for _ in range(5)})==1

def test_pairs_of_reduced_jpegs(tmp_path):
    put(tmp_path/'color/a.jpg', picture(1,801,603)); put(tmp_path/'line/a.jpg', picture(1,801,603)); put(tmp_path/'color/b.jpg', picture(2,801,603))
    put(tmp_path/'line/b.jpg', encode(picture(2,801,603),'PNG'))
    for k in 'ab':
        color,more = CiPairs(tmp_path).load(f'color/{k}.jpg',64); assert color.shape==(201,151,3) and more['sketch'].shape==(201,151)

def test_coloured_twins_are_no_pairs(tmp_path):
    for i in range(5):
        put(tmp_path/f'color/{i}.png', picture(i)); put(tmp_path/f'small/{i}.png', picture(i,50,50)); put(tmp_path/f'grey/{i+4}.png', picture(i)[...,0])
    assert type(open_source(tmp_path)) is Folder
    for i in range(4): put(tmp_path/f'grey/{i}.png', picture(i)[...,0])
    assert type(open_source(tmp_path/'color')) is Folder
    import shutil; shutil.rmtree(tmp_path/'small'); assert type(open_source(tmp_path)) is CiPairs
    put(tmp_path/'grey/0.png', b'broken'); assert type(open_source(tmp_path)) is CiPairs

# --- which is it

def test_loose_pictures_are_a_folder(tmp_path):
    for n in ('a.png','color/b.png','sub/c.png','metadata/d.png'): put(tmp_path/n, picture(1))
    put(tmp_path/'notes.json', '{}'); put(tmp_path/'list.csv', 'a,b')
    assert type(open_source(tmp_path)) is Folder and type(open_source(str(tmp_path))) is Folder
    w = World(seed=0); d = open_source(w, .2, 5, 7); assert type(d) is Drawn and (d.scenes,d.cast,d.seed)==(.2,5,7) and open_source(d) is d
    for bad in (None,3,[1]):
        with pytest.raises(ValueError, match='a folder, a World or a source'): open_source(bad)
    with pytest.raises(ValueError, match='expected a folder'): open_source(tmp_path/'nowhere')

@pytest.mark.parametrize('tags,out', [(None,[]),('',[]),('a b',['a','b']),('a, b c',['a','b c']),(['a',None,'',2],['a',2]),('["a","b"]',['a','b']),
                                      ('[broken',['[broken']),(5,[5]),({'a':1},["{'a': 1}"])])
def test_as_list(tags, out): assert as_list(tags)==out

def test_a_download_becomes_a_data_set(tmp_path):
    embedded = pytest.importorskip('manga_colorize.booru.server'); download = pytest.importorskip('manga_colorize.booru.download')
    client = pytest.importorskip('manga_colorize.booru.client')
    with embedded.EmbeddedBooru(World(seed=0), n=6, size=96) as site:
        download.download(client.Booru(site.url, rate=None).search('', n=4), tmp_path/'got', progress=False)
    s = open_source(tmp_path/'got'); got = list(s)
    assert type(s) is BooruManifest and len(got)>=3 and all(why(s,k)=='read' for k,_ in got)
    r = build_dataset(tmp_path/'got', tmp_path/'set', size=64); assert r.kept+sum(r.refused.values())+sum(r.held.values())==len(got)

# --- lists damaged at random

layouts = {
    'booru':   ({'images/0.png':0,'images/1.png':1}, 'manifest.jsonl', [post(0),post(1)]),
    'faces':   ({'0.png':0}, 'metadata.jsonl', [dict(file_name='0.png', tags=['a'], characters=[1])]),
    'table':   ({'0.png':0}, 'metadata.csv', 'file_name,tags,artist\n0.png,"a, b",c\n'),
    'old':     ({'original/0007/7.png':0}, 'metadata/2017000000000000.json', [old(7),old(8)]),
    'new':     ({'512px/0007/7.jpg':0}, 'metadata/posts000000000000.json', [new(7),new(8)]),
    'nico':    ({'dataset_003/7.jpg':0}, 'meta_003.json', '{"image_id":7,"tag_ids":[6]}{"image_id":8,"tag_ids":[6]}')}

@pytest.mark.parametrize('name', layouts)
def test_lists_damaged_at_random(tmp_path, name):
    "Whatever happens to a list: keys and facts that can be stored, pictures or Refused, nothing from outside"
    files,at,content = layouts[name]; rng = np.random.default_rng(0)
    for f,i in files.items(): put(tmp_path/f, picture(i,40,40))
    put(tmp_path/at, content); kind = type(open_source(tmp_path)); whole = (tmp_path/at).read_bytes(); read = 0
    for ways in range(150):
        d = bytearray(whole*3)
        for k in rng.integers(0, len(d), rng.integers(1,12)): d[k] = rng.choice([rng.integers(256), 34, 123, 92, 0, 47, 46])
        (tmp_path/at).write_bytes(bytes(d[:rng.integers(1,len(d)+1)]))
        try: got = list(kind(tmp_path))
        except ValueError as e: assert name=='table' and 'file_name' in str(e); continue
        assert len({k for k,_ in got})==len(got)
        for k,facts in got:
            k.encode(); json.dumps(facts, ensure_ascii=False).encode(); assert kind(tmp_path).name(k).isascii()
            read += why(kind(tmp_path), k)=='read'
    assert read>15

"The booru of our own: what it answers, and how it misbehaves"
import base64,hashlib,http.client,json,os,socket
from io import BytesIO
from urllib.error import HTTPError
from urllib.request import Request,urlopen

import pytest
from PIL import Image
from manga_colorize.booru.server import EmbeddedBooru,count_terms
from manga_colorize.world.artist import World

os.environ['NO_PROXY'] = '*'   # these tests only talk to themselves

def tiny(i):
    "A small picture that no other number has"
    Image.new('RGB', (9,8), (i%256,i//256%256,40)).save(f:=BytesIO(), 'PNG')
    return f.getvalue()

@pytest.fixture
def server():
    with EmbeddedBooru(None, n=250, draw=tiny, users={'mia':'k:e/y'}) as s: yield s

def ask(server, path, **headers):
    try:
        with urlopen(Request(server.url+path, headers=headers), timeout=10) as r: return r.status,json.loads(r.read())
    except HTTPError as e: return e.code,json.loads(e.read() or b'null')

def test_a_post_has_danboorus_fields(server):
    _,(post,*_) = ask(server, '/posts.json')
    assert {'id','created_at','md5','file_url','file_ext','file_size','image_width','image_height','rating','tag_string','tag_string_general',
            'tag_string_character',
            'tag_string_copyright','tag_string_artist','tag_string_meta','source','score','parent_id','is_deleted','is_banned','is_pending',
            'is_flagged'}<=set(post)
    assert (post['image_width'],post['image_height'])==(9,8)

def test_md5_and_size_are_right_for_25_files(server):
    for post in ask(server, '/posts.json?limit=25')[1]:
        if 'file_url' not in post: continue
        data = urlopen(post['file_url']).read()
        assert (hashlib.md5(data).hexdigest(),len(data))==(post['md5'],post['file_size'])

def test_world_pictures_match_their_labels():
    with EmbeddedBooru(World(seed=0), n=8, size=64) as s:
        for post in ask(s, '/posts.json')[1]:
            if post['is_banned']: assert 'md5' not in post and 'file_url' not in post; continue
            with Image.open(BytesIO(urlopen(post['file_url']).read())) as im:
                assert im.format==dict(jpg='JPEG',png='PNG')[post['file_ext']] and im.size==(64,64)
            ill = World(seed=0).illustration(post['id']-1, 64)
            assert set(ill.tags)<=set(post['tag_string_general'].split()) and post['tag_string_artist']==f'artist_{ill.style}'
            assert post['tag_string_character'].split()==sorted({f'world_character_{c.id}' for c in ill.characters})

@pytest.mark.parametrize('query,ids', [('id:>247',[250,249,248]), ('id:3..5',[4,3]), ('id:3..5 status:any',[5,4,3]),
                                       ('status:deleted id:<40',[39,22,5]), ('number_17*',[179,178,177,176,174,173,172,171,170,17]),
    ('1boy id:<10',[9,6,3]), ('-1girl id:<10',[9,6,3]), ('-1girl -number_3 id:<10',[9,6]), ('rating:s id:<20',[17,10,3]),
    ('rating:sensitive id:<20',[17,10,3]), ('rating:q,s id:<20',[19,17,10,6,3]),
    ('status:banned id:<60',[53,30,7]), ('filetype:mp4 id:<60',[40,11]), ('no_such_tag',[]), ('1GIRL ID:1',[1]), ('id:nonsense',[])])
def test_search(server, query, ids):
    assert [p['id'] for p in ask(server, '/posts.json?tags='+query.replace(' ','+').replace('>','%3E').replace('<','%3C'))[1]]==ids

def test_pages(server):
    ids = lambda q: [p['id'] for p in ask(server, '/posts.json?tags=status:any&only=id&'+q)[1]]
    assert ids('')==list(range(250,230,-1)) and ids('limit=1000')==list(range(250,50,-1))
    assert ids('page=3&limit=10')==list(range(230,220,-1)) and ids('page=b50&limit=3')==[49,48,47] and ids('page=a50&limit=3')==[53,52,51] and ids('page=b1')==[]
    assert set(ask(server, '/posts.json?only=id,md5&limit=1')[1][0])<={'id','md5'}
    assert ids('page=nonsense&limit=-5')==ids('page=0')==ids('')

def test_errors_have_danboorus_names(server):
    got = {path:(code,body['success'],body['error']) for path in ('/posts.json?tags=a+b+c','/posts/9999.json','/nothing','/posts.json?page=1001','/posts.json?login=mia&api_key=no') for code,body in [ask(server, path)]}
    assert list(got.values())==[(422,False,'PostQuery::TagLimitError'),(404,False,'ActiveRecord::RecordNotFound'),
            (404,False,'ActiveRecord::RecordNotFound'),(410,False,'PaginationExtension::PaginationError'),(401,False,'SessionLoader::AuthenticationFailure')]
    assert 'more than 2 tags' in ask(server, '/posts.json?tags=a+b+c')[1]['message']

def test_login_by_header_or_parameters(server):
    basic = lambda s: dict(Authorization='Basic '+base64.b64encode(s.encode()).decode())
    assert ask(server, '/posts.json?tags=a+b+c', **basic('mia:k:e/y'))==(200,[]) and ask(server, '/posts.json?tags=a+b+c&login=mia&api_key=k:e/y')==(200,[])
    assert 'more than 6 tags' in ask(server, '/posts.json?tags=a+b+c+d+e+f+g', **basic('mia:k:e/y'))[1]['message']
    for bad in (basic('mia:no'), basic('nobody:'), dict(Authorization='Basic !!!')): assert ask(server, '/posts.json', **bad)[0]==401

def test_count(server):
    count = lambda q: ask(server, f'/counts/posts.json?tags={q}')[1]['counts']['posts']
    assert count('status:any')==250 and count('')==250-count('status:deleted') and count('no_such')==0

def test_count_terms():
    assert [count_terms(q) for q in ('', 'a b', 'a b c', 'a a', 'a -b rating:g status:any id:>4 -filetype:mp4', 'order:score a b', 'date', 'artist:x', ' a  b ')]==[0,2,3,1,2,3,1,1,2]

@pytest.mark.parametrize('kind', ['429','503','404','500','cut','md5','html','slow','redirect','long','huge'])
def test_misbehaves_as_often_as_told(server, kind):
    "Two requests suffer, the third is served; requests elsewhere never suffer"
    post = ask(server, '/posts/1.json')[1]; data = tiny(0); seen = []
    server.misbehave(kind, times=2, seconds=.05)
    for _ in range(3):
        c = http.client.HTTPConnection('127.0.0.1', server.server.server_port, timeout=10); c.request('GET', f"/data/{post['md5']}.png"); r = c.getresponse()
        try: body = 'huge' if int(r.getheader('Content-Length',0))>10**9 else r.read()
        except (http.client.IncompleteRead,ConnectionError) as e: body = e
        seen.append((r.status,body)); c.close()
    assert seen[2]==(200,data) and (kind=='slow')==(seen[0]==(200,data))
    assert seen[0][0]==({'redirect':302}.get(kind) or (int(kind) if kind.isdecimal() else 200))
    assert ask(server, '/posts/1.json')[0]==200 and [s for _,p,s in server.log if '/data/' in p]==[s for s,_ in seen]

def test_log_and_close(server):
    ask(server, '/posts/1.json'); ask(server, '/posts/9999.json')
    (t,path,status),(u,*_) = server.log
    assert (path,status)==('/posts/1.json',200) and 0<t<u
    server.close(); server.close()
    with pytest.raises(OSError): socket.create_connection(('127.0.0.1', server.server.server_port), 1)
    assert 'closed' in repr(server)

def test_one_connection_serves_many(server):
    c = http.client.HTTPConnection('127.0.0.1', server.server.server_port, timeout=10)
    c.connect(); port = c.sock.getsockname()[1]
    for i in range(5):
        c.request('GET', f'/posts/{i+1}.json'); assert c.getresponse().read()
        assert c.sock.getsockname()[1]==port
    c.close()

def test_a_failing_artist_is_an_error_500():
    def draw(i): raise RuntimeError('out of ink')
    with EmbeddedBooru(None, n=3, draw=draw) as s: assert ask(s, '/posts.json')==(500, dict(success=False, error='RuntimeError', message='out of ink'))

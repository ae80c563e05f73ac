"Searching: pages, refusals, ratings, credentials, and the door they all go through"
import os,subprocess,sys,threading,time
from email.utils import format_datetime
from datetime import datetime,timedelta,timezone
from pathlib import Path
from types import SimpleNamespace

import httpx,pytest
from manga_colorize.booru import http as polite
from manga_colorize.booru.client import Booru,EmbeddedBooru,Post,download
from manga_colorize.commands.dataset import download as download_word
from manga_colorize.booru.http import NotFetched,Pace,Polite,Stopped,is_public,retry_after
from test_embedded import tiny

@pytest.fixture
def server():
    with EmbeddedBooru(None, n=250, draw=tiny, users={'mia':'key'}) as s: yield s

def booru(server, **kw): return Booru(server.url, **dict(dict(rate=None, backoff=.01, timeout=5.), **kw))
def expected(server, letters='g', n=None):
    ps = [server.stock.facts(i) for i in range(server.n if n is None else n, 0, -1)]
    return [p['id'] for p in ps if p['rating'] in letters and not p['is_deleted'] and not p['is_banned'] and p['file_ext']!='mp4']

def test_a_post_is_a_small_record(server):
    post = next(iter(booru(server).search('id:1')))
    assert (post.id,post.ext,post.width,post.height,post.rating,post.size)==(1,'jpg',9,8,'general',len(tiny(0)))
    assert post.tags==dict(general=['1girl','number_1'], character=[], copyright=['original'], artist=['nobody'], meta=[]) and post.source=='https://example.org/world/1'
    assert post==next(iter(booru(server).search('id:1'))) and len({post})==1 and 'booru' not in repr(post) and post.booru.url==server.url
    with pytest.raises(AttributeError): post.id = 2

@pytest.mark.parametrize('rating,letters', [('general','g'),('sensitive','s'),('questionable','q'),('explicit','e'),(('general','sensitive'),'gs'),
                                            (None,'gsqe')])
def test_rating_must_be_asked_for(server, rating, letters): assert [p.id for p in booru(server).search(rating=rating)]==expected(server, letters)

def test_rating_is_checked_in_the_answer(server):
    "A booru that ignores the rating in the question"
    b = booru(server); ask = b.ask
    b.ask = lambda path, tags='', **kw: ask(path, tags='', **kw)
    s = b.search(); assert [p.id for p in s]==expected(server) and s.skipped['another rating']>20

def test_left_out_posts_are_counted(server):
    s = booru(server).search(rating=None); n = len(list(s))
    assert s.skipped['banned']>5 and s.skipped['video']>5 and n+sum(s.skipped.values())==booru(server).count(rating=None)

def test_count(server):
    assert booru(server).count()==len([i for i in range(1,251) if server.stock.facts(i)['rating']=='g' and not server.stock.facts(i)['is_deleted']])

def test_search_is_lazy(server):
    s = booru(server).search(); assert server.log==[]
    it = iter(s); next(it); assert len(server.log)==1

def test_pages_go_by_id(server):
    list(booru(server).search(rating=None))
    pages = [p for _,p,_ in server.log]
    assert len(pages)==3 and 'page=' not in pages[0] and all('page=b' in p for p in pages[1:]) and 'limit=200' in pages[0]

def test_no_post_twice_while_300_more_arrive(server):
    "New posts shift numbered pages, not pages by id"
    ids = []
    for p in booru(server).search():
        ids.append(p.id)
        if len(ids)%10==0 and server.n<550: server.n += 20
    assert ids==expected(server, n=250) and server.n==550

@pytest.mark.parametrize('rows', [[], [[]], [[{'id':3}]]*9, [['x',None,{'id':'5'},{'id':True},{'id':-1}]],
                                  [[{'id':5,'md5':'../../x','file_url':'/a'}]]], ids=str)
def test_strange_pages_end_the_search(server, rows):
    b,pages = booru(server),iter(rows)
    b.ask = lambda *a, **k: next(pages, [])
    assert list(b.search())==[]

def test_n(server):
    assert [[p.id for p in booru(server).search(n=n)] for n in (0,1,7)]==[expected(server)[:n] for n in (0,1,7)]

def test_two_tag_limit_before_anything_is_sent(server):
    for tags in ('a b c', 'a -b ~c', 'a b c status:any'):
        with pytest.raises(ValueError, match='at most 2 tags for a visitor, got 3'): booru(server).search(tags)
        with pytest.raises(ValueError, match='at most 2 tags for a visitor, got 3'): booru(server).count(tags)
    assert server.log==[]
    assert list(booru(server).search('1girl number_1 id:1 -status:deleted'))

def test_with_a_login_the_server_decides(server):
    b = booru(server, login='mia', api_key='key')
    assert [p.id for p in b.search('1girl number_1 original')]==[1]
    with pytest.raises(ValueError, match='more than 6 tags'): list(b.search('a b c d e f g'))
    with pytest.raises(ValueError, match='valid login and api_key'): booru(server, login='mia', api_key='wrong').count()

@pytest.mark.parametrize('kind,error,text', [('401',ValueError,'valid login'),('403',PermissionError,'set user_agent'),
                                             ('404',ValueError,"Danbooru's interface"),('422',ValueError,'refuses the query'),
    ('410',NotFetched,'HTTP status 410'),('html',NotFetched,'got a web page'),('md5',NotFetched,'something else'),
    ('redirect',NotFetched,'leaves the booru: example.com')])
def test_clear_messages(server, kind, error, text):
    server.misbehave(kind, where='/posts.json')
    with pytest.raises(error, match=text): list(booru(server).search())

def test_bad_arguments():
    for kw,text in ((dict(url='danbooru'),'an address like'), (dict(login='mia'),'both login'), (dict(rate=0),'a rate above 0'),
                    (dict(url='http://example.org',login='a',api_key='b'),'https for a login'),
                    (dict(user_agent='x\r\nCookie: a'),'plain ASCII'), (dict(user_agent='名前'),'plain ASCII'), (dict(user_agent=''),'plain ASCII'),
                    (dict(tries=0),'one try')):
        with pytest.raises(ValueError, match=text): Booru(**kw)
    b = Booru()
    for f,text in ((lambda: b.search('a rating:e'),'rating as an argument'), (lambda: b.search(rating='safe'),'a rating of'),
                   (lambda: b.search(n=-1),'n of 0 or more')):
        with pytest.raises(ValueError, match=text): f()
    assert 'secret' not in repr(Booru(login='mia', api_key='secret'))

def ok(data, **kw): return httpx.Response(200, stream=httpx.ByteStream(data), **kw)

def transport(monkeypatch, b, handler, addresses={'1.1.1.1'}):
    "A network of our own behind `b`"
    monkeypatch.setattr(polite, '_addresses', lambda host, port: addresses)
    b.http.client = httpx.Client(transport=httpx.MockTransport(handler), headers=b.http.client.headers)
    return b

def test_credentials_go_to_the_booru_only(monkeypatch):
    seen = []
    def handler(request):
        seen.append((request.url.host, request.headers.get('authorization'), request.headers['user-agent']))
        if request.url.path=='/moved.jpg': return httpx.Response(302, headers=dict(location='https://cdn.test/x.jpg'))
        return ok(b'{"counts":{"posts":3}}')
    b = transport(monkeypatch, Booru('https://booru.test', login='mia', api_key='key', media=['cdn.test'], rate=None,
                                     user_agent='course (me@example.com)'), handler)
    assert b.count()==3; b.fetch('https://cdn.test/a.jpg'); b.fetch('/moved.jpg')
    assert [(host,bool(auth)) for host,auth,_ in seen]==[('booru.test',True),('cdn.test',False),('booru.test',True),('cdn.test',False)]
    assert {agent for *_,agent in seen}=={'course (me@example.com)'} and 'key' not in str([s for s in seen if s[0]=='cdn.test'])

@pytest.mark.parametrize('addresses', [{'10.0.0.1'},{'127.0.0.1'},{'169.254.169.254'},{'1.1.1.1','192.168.0.9'},{'::1'},{'fe80::1%eth0'},
                                       {'::ffff:127.0.0.1'}], ids=str)
def test_a_media_host_in_the_private_network_is_refused(monkeypatch, addresses):
    b = transport(monkeypatch, Booru('https://booru.test', media=['cdn.test'], rate=None), lambda r: pytest.fail('sent'), addresses)
    with pytest.raises(NotFetched, match='private address: cdn.test'): b.fetch('https://cdn.test/a.jpg')

def test_a_name_that_leads_elsewhere_when_it_counts_is_refused(monkeypatch):
    "The name looked public, the connection is not"
    stream = SimpleNamespace(get_extra_info=lambda what: ('192.168.0.9',443))
    b = transport(monkeypatch, Booru('https://booru.test', media=['cdn.test'], rate=None), lambda r: ok(b'x', extensions={'network_stream':stream}))
    with pytest.raises(NotFetched, match='private address: cdn.test is 192.168.0.9'): b.fetch('https://cdn.test/a.jpg')
    assert b.fetch('/own.jpg').body==b'x'   # the origin may be wherever we were told it is

@pytest.mark.parametrize('to,why', [('https://evil.test/x','leaves the booru: evil.test'), ('http://cdn.test/x','not https'),
                                    ('http://booru.test/x','not https'), ('file:///etc/passwd','not https'), ('https://cdn.test:8443/x','leaves the booru'),
    ('https://cdn.test@evil.test/','leaves the booru: evil.test'), ('https://me:key@cdn.test/','leaves the booru'),
            ('https://127.0.0.1/','leaves the booru'), ('//evil.test/x','leaves the booru'), ('gopher://cdn.test','not https'),
            ('https://cdn.test./x','leaves the booru'), ('https://CDN.test.evil.test/x','leaves the booru')])
def test_redirects_and_addresses_that_are_refused(monkeypatch, to, why):
    sent = []
    def handler(request): sent.append(str(request.url)); return httpx.Response(302, headers=dict(location=to))
    b = transport(monkeypatch, Booru('https://booru.test', media=['cdn.test'], rate=None), handler)
    for url in (to, 'https://cdn.test/a.jpg'):
        with pytest.raises(NotFetched, match=why): b.fetch(url)
    assert sent==['https://cdn.test/a.jpg']

def test_a_redirect_to_nonsense_is_refused(monkeypatch):
    b = transport(monkeypatch, Booru('https://booru.test', rate=None, tries=2, backoff=.01),
                  lambda r: httpx.Response(302, headers=dict(location='http://[::1')))
    with pytest.raises(NotFetched, match='broken answer, 2 times'): b.fetch('/a.jpg')
    with pytest.raises(NotFetched, match='not an address'): b.fetch('http://[::1')

def test_allowed_redirects(monkeypatch):
    hops = iter(['https://CDN.TEST/2', '/3', 'https://booru.test/4'])
    b = transport(monkeypatch, Booru('https://booru.test', media=['cdn.test'], rate=None),
                  lambda r: httpx.Response(302, headers=dict(location=h)) if (h := next(hops,None)) else ok(b'done'))
    assert b.fetch('/1').body==b'done'

def test_too_many_redirects(server):
    server.misbehave('redirect', times=99, where='/posts/1', to='/posts/1.json')
    with pytest.raises(NotFetched, match='more than 3 redirects'): booru(server).fetch('/posts/1.json')
    assert len(server.log)==4

def test_public_addresses():
    assert [a for a in ('8.8.8.8','2001:4860:4860::8888','10.0.0.1','100.64.0.1','172.31.0.1','192.0.2.1','198.18.0.1','0.0.0.0','255.255.255.255','224.0.0.1','::','fc00::1','ff02::1','::ffff:192.168.0.1') if is_public(a)]==['8.8.8.8','2001:4860:4860::8888']

def test_retry_after_reads_seconds_and_dates():
    assert 55<retry_after(format_datetime(datetime.now(timezone.utc)+timedelta(seconds=60), usegmt=True))<=60
    assert [retry_after(x) for x in ('0','7','-3','1e3','nan x',None,'')]==[0,7,0,1000,None,None,None]

def test_a_pause_that_is_too_long_is_refused():
    p = Pace(None, patience=1); p.pause(5)
    with pytest.raises(NotFetched, match='more than 1 seconds'):
        with p.turn(): pass

def test_waiting_can_be_stopped():
    p,stop,start = Pace(None),threading.Event(),time.monotonic(); p.pause(30)
    threading.Timer(.1, stop.set).start()
    with pytest.raises(Stopped):
        with p.turn(stop): pass
    assert time.monotonic()-start<5

def test_gives_up_after_5_tries(server):
    server.misbehave('503', times=99, where='/posts')
    with pytest.raises(NotFetched, match='503 service unavailable, 5 times'): booru(server).count()
    assert len(server.log)==5

def test_backs_off_twice_as_long_each_time(server):
    server.misbehave('503', times=3, where='/posts')
    booru(server, backoff=.1).count()
    t = [t for t,*_ in server.log]; gaps = [b-a for a,b in zip(t,t[1:])]
    assert all(g>=.1*2**k for k,g in enumerate(gaps)) and len(gaps)==3

def test_timeout(server):
    server.misbehave('slow', times=99, where='/posts', seconds=1.)
    with pytest.raises(NotFetched, match='no answer in time, 2 times'): booru(server, timeout=.2, tries=2).count()

def test_no_such_host_or_server(monkeypatch, server):
    server.close()
    with pytest.raises(NotFetched, match='no connection'): booru(server, tries=1).count()
    def fail(*a): raise polite.socket.gaierror(8, 'unknown')
    monkeypatch.setattr(polite, '_addresses', fail)
    with pytest.raises(NotFetched, match='no such host, 1 time'): Booru('https://booru.test', media=['cdn.test'], tries=1).fetch('https://cdn.test/x')

def test_endless_body_is_cut_short(server):
    server.misbehave('long', where='/posts')
    with pytest.raises(NotFetched, match='larger than expected'): booru(server).fetch('/posts/1.json', limit=50_000)

def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('manga_colorize.commands.dataset.EmbeddedBooru',
                        lambda world, **kw: EmbeddedBooru(None, draw=tiny, **kw))   # the World itself draws in the tests of manga-dataset
    download_word('world', '1girl', str(tmp_path/'a'), n=2, rate=100.)
    assert 'new                           2' in capsys.readouterr().out and len(list((tmp_path/'a'/'images').iterdir()))==2
    for args,text in ((('nowhere','x'),'an address like'), (('world','a b c'),'at most 2 tags'), (('world','no_such_tag'),"no post fits 'no_such_tag'")):
        with pytest.raises((ValueError,OSError), match=text): download_word(*args, str(tmp_path/'b'), n=1, rate=100.)
    with pytest.raises((ValueError,OSError), match='a rating of'): download_word('world', '1girl', str(tmp_path/'b'), n=1, rating='safe')

def test_command_against_a_booru(server, tmp_path, capsys):
    download_word(server.url, '1girl', str(tmp_path/'a'), n=4, rate=100., rating='general,sensitive', login='mia', key='key', media='')
    assert len(list((tmp_path/'a'/'images').iterdir()))==4 and capsys.readouterr().err==''

def test_command_takes_the_key_from_the_environment(server, tmp_path, monkeypatch):
    with pytest.raises((ValueError,OSError), match='both login and api_key'): download_word(server.url, '1girl', str(tmp_path/'a'), n=1, login='mia')
    monkeypatch.setenv('MANGA_BOORU_KEY', 'key')
    download_word(server.url, '1girl original number_8', str(tmp_path/'a'), n=1, rate=100., login='mia')
    assert [p.name for p in (tmp_path/'a'/'images').iterdir()]==['8.png']

def test_errors_name_the_booru(server):
    server.close()
    with pytest.raises(NotFetched, match=server.url): booru(server, tries=1).count()

@pytest.mark.parametrize('body', [b'{"success":false,"message":"odd"}', b'7', b'"x"', b'['*100_000, b'\xff', b'1'*5000], ids=lambda b: repr(b[:9]))
def test_strange_json_is_named(monkeypatch, body):
    b = transport(monkeypatch, Booru('https://booru.test', rate=None, tries=1), lambda r: ok(body))
    with pytest.raises(NotFetched, match='expected (JSON|a list of posts) from https://booru.test'): list(b.search())
    with pytest.raises(NotFetched, match='expected (JSON|counts) from https://booru.test'): b.count()

@pytest.mark.parametrize('term', ['order:score','-order:id','random:5','limit:3','ORDER:rank'])
def test_terms_that_break_paging_are_refused(server, term):
    with pytest.raises(ValueError, match='goes by number'): booru(server).search('1girl '+term)

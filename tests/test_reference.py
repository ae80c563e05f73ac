"References: describing places, learning to, votes, cues, whole pages"
import hashlib,json
import cv2,numpy as np,pytest,torch
from safetensors.torch import load_file
from manga_colorize.scans.descreen import descreen
from manga_colorize.world.pages import Page
from manga_colorize.scans.panels import panels
from manga_colorize.world.artist import World
from manga_colorize.chapters.consistency import day_chapter
from manga_colorize.chapters import reference
from manga_colorize.chapters.describer import Describer,PlainDescriber,describe,fit_panel,grey_of,load_describer,places,save_describer
from manga_colorize.chapters.matching import chapter_panels,describer_learner,find_scenery,match_batch,match_loss,some_places,who_is_where
from manga_colorize.chapters.color_page import bare_lines,color_page,owners
from manga_colorize.chapters.reference import Palette,as_palette,group_colors,loudness,reference_cue,told_colors,votes

@pytest.fixture(scope='module')
def chapter(): return day_chapter(World(77), 0, n=2, size=(700,495))
@pytest.fixture(scope='module')
def palette(chapter): return Palette([(chapter[0].color,chapter[0].bw)])
def panel(page, k=0): x,y,w,h = page.panels[k]; return np.ascontiguousarray(page.bw[y:y+h,x:x+w])
def fill(sketch, cue): return np.repeat(sketch[...,None],3,2)

# ---- the describer
@pytest.mark.parametrize('net', [Describer(8,3,16),PlainDescriber(16)], ids=['learned','plain'])
@pytest.mark.parametrize('size', [(256,256),(64,900),(33,40)])
def test_descriptions_have_length_1(net, size):
    words = describe(np.random.default_rng(0).integers(0,256,size,np.uint8), net)
    h,w = fit_panel(np.zeros(size,np.uint8)).shape
    assert words.shape==(h//4,w//4,16) and torch.allclose(words.norm(dim=-1),torch.ones(words.shape[:2]),atol=1e-4)

def test_mirror(chapter):
    a = cv2.resize(panel(chapter[1]),(256,256),interpolation=cv2.INTER_AREA)
    assert torch.allclose(describe(a),describe(np.ascontiguousarray(a[:,::-1])).flip(1),atol=1e-4)

def test_the_shipped_one_is_small_and_safe():
    from importlib.resources import files
    folder = files('manga_colorize')/'weights'/'describer'
    config = json.loads((folder/'config.json').read_text(encoding='utf-8'))
    assert config['data']['kind']=='world' and len((folder/'model.safetensors').read_bytes())<2e6
    assert load_describer().scenery.norm().item()==pytest.approx(1,abs=.01)

def test_save_and_load(tmp_path):
    net = Describer(8,2,16); save_describer(net, tmp_path/'a', data=dict(kind='none'))
    x = torch.rand(1,1,64,64)
    assert torch.allclose(net.eval()(x),load_describer(tmp_path/'a')(x),atol=2e-2)
    assert load_file(tmp_path/'a'/'model.safetensors')['last.weight'].dtype==torch.float16

@pytest.mark.parametrize('change,word', [(lambda c: c.update(sha256='0'*64),'it is damaged'),
                                         (lambda c: c['model'].update(arch='cue_unet'),'expected the config'),
                                         (lambda c: c['model'].update(width=9999),'expected the config'),
                                         (lambda c: c['model'].update(other=3),'expected the config'),
                                         (lambda c: c['model'].update(depth=5),'expected the config'),
                                         (lambda c: c.update(model='x'),'expected the config'),
                                         (lambda c: c['model'].update(width=16),'expected the weights'), (lambda c: c.update(format=2),'expected format')])
def test_what_is_damaged_is_refused(tmp_path, change, word):
    save_describer(Describer(8,2,16), tmp_path)
    config = json.loads((tmp_path/'config.json').read_text()); change(config); (tmp_path/'config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match=word): load_describer(tmp_path)

def test_a_list_is_no_config(tmp_path):
    save_describer(Describer(8,2,16), tmp_path); (tmp_path/'config.json').write_text('[]')
    with pytest.raises(ValueError, match='expected the config'): load_describer(tmp_path)

def test_other_bytes_with_the_right_hash(tmp_path):
    save_describer(Describer(8,2,16), tmp_path); data = b'something else'; (tmp_path/'model.safetensors').write_bytes(data)
    config = json.loads((tmp_path/'config.json').read_text()); config['sha256'] = hashlib.sha256(data).hexdigest()
    (tmp_path/'config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match='expected safetensors'): load_describer(tmp_path)

def test_a_folder_written_anew_is_read_anew(tmp_path):
    a,b = Describer(8,1,8),Describer(8,1,8)
    for net in (a,b): assert torch.allclose(load_describer(save_describer(net,tmp_path)).last.weight,net.last.weight,atol=1e-2)
    assert not torch.allclose(a.last.weight,b.last.weight,atol=1e-2) and load_describer() is load_describer()

def test_too_large_for_16_bits(tmp_path):
    net = Describer(8,1,8); net.last.bias.data[0] = 1e5
    with pytest.raises(ValueError, match='65504'): save_describer(net, tmp_path)

def test_follows_the_device():
    class Far(torch.nn.Module):
        stride,seen = 4,[]
        def __init__(self): super().__init__(); self.register_buffer('scenery', torch.zeros(8,device='meta'))
        def forward(self, x): self.seen.append(x.device.type); return torch.ones(1,8,x.shape[2]//4,x.shape[3]//4)
    net = Far(); assert describe(np.zeros((64,64),np.uint8),net).device.type=='cpu' and set(net.seen)=={'meta'}
    assert {k for k,_ in PlainDescriber().named_buffers()}=={'scenery','turn','shift'}

def test_places_take_crops(chapter):
    ink = chapter[0].bw[10:210,20:150]
    assert torch.equal(places(ink),describe(np.ascontiguousarray(ink))[::2,::2])

# ---- learning
def test_loss_by_hand():
    words,panel = torch.eye(4)[[0,1,0,1]],torch.tensor([0,0,1,1])
    good,bad = (match_loss(words,torch.tensor(l),panel).item() for l in ([1,2,1,2],[1,2,2,1]))
    assert good<.01 and bad>5
    assert match_loss(torch.eye(4),torch.tensor([1,2,3,4]),panel).item()<.05, 'strangers who find nobody'

def test_who_is_where(chapter):
    labels = who_is_where(chapter); own = {}
    for page,label in zip(chapter,labels):
        assert np.array_equal(label<0,page.balloons) and np.array_equal(label>0,page.identities>0)
        for k in np.unique(label[label>0]):
            whose = {*zip(page.identities[label==k].tolist(),page.parts[label==k].tolist())}
            assert len(whose)==1 and own.setdefault(k,whose)==whose, 'a number belongs to one part of one person on all pages'
    skin = [{*label[(page.parts==2)&(page.identities==c.id+1)].tolist()} for page,label in zip(chapter,labels) for c in page.characters]
    assert all(len(s)<=1 for s in skin), 'skin has one paint'
    assert max(map(np.max,labels))>max(np.max(l) for l in who_is_where(chapter,alike=1e3)), 'more paints than parts'

def test_pages_without_paints(chapter):
    page = chapter[0]; bare = Page(page.bw, page.color, page.panels, page.balloons, page.identities, page.parts, page.characters)
    with pytest.raises(ValueError, match='expected pages that know their paints, got Page'): who_is_where([bare])

def test_paints_are_flat(chapter):
    page = chapter[0]; assert (page.paints[page.balloons]==255).all()
    hair = page.paints[(page.parts==1)&(page.identities==page.characters[0].id+1)]
    assert len(hair) and len(np.unique(hair,axis=0))<=3 and len(np.unique(page.color[page.parts==1],axis=0))>20

def test_a_batch_is_seeded_and_fits(chapter):
    panels = chapter_panels(5, 0, pages=1, size=(420,297))
    a,b = (match_batch(panels,4,64,np.random.default_rng(3)) for _ in range(2))
    assert a[0].shape==(4,1,64,64) and a[1].shape==(4,16,16) and torch.equal(a[0],b[0]) and a[0].min()>=-1 and a[0].max()<=1
    p,y,x = some_places(a[1],2,np.random.default_rng(0))
    assert (a[1][p,y,x]>=0).all()
    net = Describer(8,2,16); assert find_scenery(net,[panels]).norm().item()==pytest.approx(1,abs=1e-4)

def test_learning_reaches_all_weights():
    learn = describer_learner([chapter_panels(5,0,pages=1,size=(420,297))]*2, n=3, width=8, depth=2)
    before = {k:v.clone() for k,v in learn.model.named_parameters()}
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert all(not torch.equal(before[k],v) for k,v in learn.model.named_parameters())

# ---- votes
def test_a_crowd_speaks_as_one():
    words = torch.nn.functional.normalize(torch.tensor([[1.,0]]*30+[[0,1.]]),dim=1)
    assert loudness(words)[:30].sum().item()==pytest.approx(1,abs=.01)==loudness(words)[30].item()
    assert loudness(words,most=31).shape==(31,)
    v = votes(torch.tensor([[.7071,.7071]]), words, [0]*30+[1])
    assert v[0,0].item()==pytest.approx(v[0,1].item(),abs=.02)
def test_nobody_answers_strangers():
    v = votes(torch.tensor([[-1.,0]]), torch.tensor([[1.,0]]), [0])
    assert v.sum().item()<1e-6

def test_group_colors():
    colors = np.uint8([[200,30,30]]*5+[[30,30,200]]*5); rgb,group = group_colors(colors)
    assert np.abs(rgb[group].astype(int)-colors).max()<=2 and group_colors(colors[:1])[0].tolist()==[[200,30,30]]

# ---- palettes and cues
def test_palette_forms(chapter, palette):
    first = chapter[0]
    assert as_palette(palette) is palette and len(as_palette(None))==0
    assert 0<len(Palette([first.color]))<len(first.bw.ravel()) and len(palette)>0
    n = len(as_palette([first.color])); assert n==len(as_palette(first.color))
    with pytest.raises(ValueError, match='expected ink'): palette.add(first.color, first.bw[:50])

def test_a_pair_is_a_picture_and_its_print(monkeypatch):
    added = []; monkeypatch.setattr(Palette,'add',lambda self,*p: added.append(len(p)))
    color,ink = np.zeros((8,8,3),np.uint8),np.zeros((8,8),np.uint8)
    for given,want in ((color,[1]),('a.png',[1]),([color],[1]),((color,),[1]),((color,ink),[2]),([(color,ink)],[2]),(((color,ink),(color,ink)),[2,2]),
                       ([color,color],[1,1]),([],[]),((),[])):
        added.clear(); as_palette(given); assert added==want

def test_nobody_to_ask(chapter):
    with pytest.raises(ValueError, match='expected a palette'): told_colors(panel(chapter[1]), Palette())

def test_what_is_new_is_asked_too(chapter):
    "What is worked out once is worked out again after `add_panel`"
    (a,b),(c,d) = [(p.color[y:y+h,x:x+w],p.bw[y:y+h,x:x+w]) for p in chapter for x,y,w,h in p.panels[:1]]
    sketch = np.ascontiguousarray(b); grown,both = Palette(),Palette()
    grown.add_panel(c,d); told_colors(sketch,grown); grown.add_panel(a,b)
    both.add_panel(c,d); both.add_panel(a,b)
    assert all(np.array_equal(x,y) for x,y in zip(told_colors(sketch,grown),told_colors(sketch,both)))

def test_the_cue_fits_and_is_sure(chapter, palette):
    sketch = panel(chapter[1]); cue = reference_cue(sketch,palette)
    assert cue.shape==(*sketch.shape,4) and cue.dtype==np.uint8 and set(np.unique(cue[...,3]).tolist())=={0,255}
    assert 0<(reference_cue(sketch,palette,sure=.95)[...,3]>0).sum()<(cue[...,3]>0).sum()
    with pytest.raises(ValueError, match='expected sure'): reference_cue(sketch,palette,sure=-1)

def test_nothing_known_nothing_told(chapter):
    sketch = panel(chapter[1])
    assert not reference_cue(sketch,None)[...,3].any() and not reference_cue(sketch,[])[...,3].any()
    blank = np.full((90,80),255,np.uint8)
    told = lambda **k: reference_cue(blank,chapter[0].color,**k)
    assert (told(scenery=None)[...,3]>0).mean()<.1, 'hardly anybody is on empty paper'
    paper = told(); assert (paper[paper[...,3]>0]>=250).all(1).mean()>.95, 'it stays white'
    assert not reference_cue(sketch,np.full((64,64,3),255,np.uint8))[...,3].any(), 'an empty picture knows nobody'

def test_scenery_keeps_its_grey(chapter, palette):
    "Dots of scenery are as grey as the print around them, lie on no people, and do not change what is told of people"
    page = chapter[1]
    for k,(x,y,w,h) in enumerate(page.panels):
        sketch,people = panel(page,k),page.identities[y:y+h,x:x+w]>0
        free,full = reference_cue(sketch,palette,scenery=None),reference_cue(sketch,palette)
        wall = (full[...,3]>0)&(free[...,3]==0)
        if wall.mean()<.01: continue
        assert np.ptp(full[wall][:,:3].astype(int),axis=1).max()==0 and (people&wall).sum()<.25*wall.sum() and np.array_equal(full[~wall],free[~wall])
        assert np.abs(full[wall][:,0].astype(int)-cv2.GaussianBlur(sketch,(0,0),8)[wall]).mean()<40
    assert (reference_cue(sketch,palette,scenery=-1)[...,3]>0).sum()>(full[...,3]>0).sum()

def test_a_page_finds_itself(chapter, palette):
    "On the page that the palette knows, dots have the right colour"
    page,hits = chapter[0],[]
    for x,y,w,h in page.panels:
        color,sure = told_colors(np.ascontiguousarray(page.bw[y:y+h,x:x+w]), palette)
        true = cv2.medianBlur(fit_panel(np.ascontiguousarray(page.color[y:y+h,x:x+w])),5)[2::8,2::8][:sure.shape[0],:sure.shape[1]]
        hits += [(np.abs(color.astype(int)-true).max(-1)<40)[sure>.5]]
    assert np.concatenate(hits).mean()>.7 and len(np.concatenate(hits))>100

@pytest.mark.parametrize('share', [0,.5])
def test_scenery_and_lonely_dots_stay_empty(monkeypatch, palette, share):
    "With sure=0 as well"
    sure = np.zeros((32,32)); sure[2,2] = sure[20:23,20:23] = share
    monkeypatch.setattr(reference,'_vote',lambda *a: (np.zeros((32,32,3),np.uint8),sure))
    told = reference_cue(np.full((256,256),255,np.uint8), palette, sure=0, scenery=None)[...,3]>0
    assert told.any()==(share>0) and not told[:100,:100].any()

# ---- pages
def test_owners():
    who = owners([(0,0,20,20),(16,0,20,20),(5,5,6,6)],(24,40))
    assert who[2,2]==0 and who[2,30]==1 and who[8,8]==2 and who[22,2]==-1 and who[10,17]==0 and who[10,19]==1
    assert (owners([],(4,4))==-1).all()

def test_page_keeps_paper_balloons_and_lines(chapter):
    page = chapter[1]
    out = color_page(page.bw, lambda s,c: np.full((*s.shape,3),(250,60,60),np.uint8))
    assert out.shape==page.color.shape and out.dtype==np.uint8
    grey = np.repeat(page.bw[...,None],3,2); inside = cv2.erode(page.balloons.astype(np.uint8),np.ones((9,9),np.uint8))>0
    assert (out==grey).all(-1)[inside].mean()>.7
    dark = bare_lines(page.bw)<60
    assert out[dark].max()<=96 and (out==(250,60,60)).all(-1).mean()>.2

@pytest.mark.parametrize('tones', ['smooth','print'])
def test_a_painter_of_smooth_tones_is_shown_them(chapter, tones):
    page = chapter[1].bw; smooth = descreen(page); shown = []
    class Painter:
        config = dict(protocol=dict(tones=tones))
        def __call__(self, sketch, cue): shown.append(sketch); return fill(sketch, cue)
    color_page(page, Painter()); want = smooth if tones=='smooth' else page
    assert not np.array_equal(smooth, page) and shown
    for (x,y,w,h),sketch in zip(panels(page), shown): assert np.array_equal(sketch, want[y:y+h,x:x+w])

@pytest.mark.parametrize('page', [np.full((64,48),255,np.uint8), np.zeros((200,150),np.uint8), np.random.default_rng(0).integers(0,256,(90,300),np.uint8),
                                  np.random.default_rng(0).integers(0,2,(120,90),np.uint8)*255], ids=['blank','black','wide noise','one bit'])
def test_odd_pages(page, palette):
    out = color_page(page,fill,palette)
    assert out.shape==(*page.shape,3) and out.dtype==np.uint8 and (out<=page[...,None]).all(), 'paint is never lighter than a painter of grey'

def soft(sketch, cue): return np.full((*sketch.shape,3),(250,230,220),np.uint8)

@pytest.mark.parametrize('dim', [1.,.5,.35], ids=['white','grey','dark'])
def test_dark_scans_are_coloured(chapter, dim):
    page = (chapter[1].bw*dim).astype(np.uint8)
    assert (color_page(page,soft)==(250,230,220)).all(-1).mean()>.15

def test_forms_of_a_page(chapter):
    "A yellow scan, RGBA and two pages side by side"
    bw = chapter[1].bw; yellow = (bw[...,None]/255*[247,237,212]).astype(np.uint8)
    out = color_page(yellow,soft); assert (out==(250,230,220)).all(-1).mean()>.15
    paper = ~(out==(250,230,220)).all(-1); assert (np.ptp(out[paper].astype(int),axis=1)==0).mean()>.5, 'paper comes back as grey'
    rgba = np.dstack([np.repeat(bw[...,None],3,2),np.full(bw.shape,255,np.uint8)])
    assert np.array_equal(color_page(rgba,soft),color_page(bw,soft))
    assert color_page(np.hstack([bw,bw]),soft).shape==(bw.shape[0],2*bw.shape[1],3)

def test_a_large_page():
    page = np.full((3500,2500),255,np.uint8)
    for y in (100,1800): cv2.rectangle(page,(100,y),(2400,y+1500),0,12)
    out = color_page(page,soft); assert out.shape==(3500,2500,3) and tuple(out[800,1200])==(250,230,220) and tuple(out[20,20])==(255,)*3

def test_lines_stay_where_tone_touches_them():
    "A ring over screentone is kept, its dots are not"
    page = np.full((400,400),255,np.uint8)
    for y in range(0,400,8):
        for x in range(0,400,8): cv2.circle(page,(x+3,y+3),2,0,-1)
    ring = np.zeros_like(page); cv2.circle(ring,(200,200),120,255,4); page[ring>0] = 0
    lines = bare_lines(page); assert (lines<100)[ring>0].mean()>.95
    far = cv2.dilate(ring,np.ones((15,15),np.uint8))==0; assert (lines<100)[far].mean()<.05*(page<100)[far].mean()

def test_what_is_coloured_is_remembered(chapter):
    palette = Palette(); cues = []
    def red(sketch, cue): cues.append(cue[...,3].mean()); return np.full((*sketch.shape,3),(220,40,40),np.uint8)
    color_page(chapter[1].bw, red, palette, remember=True)
    assert cues[0]==0 and sum(cues[1:])>0 and len(palette)>0

"Where colours come from, and consistency without masks"
import numpy as np,pytest
from manga_colorize.world.artist import World
from manga_colorize.chapters.benchmark import matched_places,matched_spread
from manga_colorize.commands.evaluate import consistency as consistency_word
from manga_colorize.chapters.consistency import consistency,day_chapter,hues_by_tone
from manga_colorize.chapters.match_scores import hit_rates,origins,reference_hits,_known
from manga_colorize.chapters.describer import PlainDescriber,load_describer

@pytest.fixture(scope='module')
def chapter(): return day_chapter(World(4321), 1, n=3, size=(640,453))
def both(chapter, fakes): return consistency(chapter,fakes).ratio,matched_spread([p.bw for p in chapter],fakes).ratio

def test_the_learned_one_beats_arithmetic(chapter):
    learned,plain = (hit_rates(reference_hits(chapter,net))['both'] for net in (None,PlainDescriber(32)))
    assert learned['regions']==plain['regions']>8 and learned['right']>.75 and learned['right']>plain['right']+.2

def test_rows(chapter):
    for r in reference_hits(chapter[:2], ink=False):
        assert r['page']==0 and r['part'] in ('hair','outfit') and 0<=r['told']<=1 and (r['off'] is None)==(r['told']==0) and not (r['right'] and r['off'] is None)

def test_a_page_is_its_own_origin(chapter):
    net = load_describer(); words,label = _known(chapter[0],net)
    hits = [(taken==true)[true>0] for taken,true in (origins(chapter[0],k,words,label,net) for k in range(len(chapter[0].panels)))]
    assert np.concatenate(hits).mean()>.6

def test_both_numbers_agree(chapter):
    twin,print_ = both(chapter,[p.color for p in chapter]),both(chapter,[np.repeat(p.bw[...,None],3,2) for p in chapter])
    assert twin[0]<print_[0] and twin[1]<print_[1]-.2 and print_[1]==pytest.approx(1,abs=.05)

def test_a_hue_for_each_tone_does_not_win(chapter):
    by_tone,twin = both(chapter,hues_by_tone([p.bw for p in chapter])),both(chapter,[p.color for p in chapter])
    assert by_tone[1]>twin[1]+.1

def test_pairs_are_of_two_panels(chapter):
    a,b = matched_places([p.bw for p in chapter])
    assert len(a)==len(b)>8 and a.shape[1]==3 and not (a==b).all(1).any()
    for i,r,c in (*a,*b): assert 0<=r<chapter[i].bw.shape[0] and 0<=c<chapter[i].bw.shape[1]

def test_most_pairs_are_people(chapter):
    a,b = matched_places([p.bw for p in chapter]); who = lambda at: np.array([chapter[p].identities[r,c] for p,r,c in at])
    assert ((who(a)>0)&(who(a)==who(b))).mean()>.6 and ((who(a)==0)&(who(b)==0)).mean()<.2

@pytest.mark.parametrize('ink,fake,match', [([],[],'got 0 matching'),([(200,150)],[(200,149,3)],'expected pictures'),([(20,15)],[(20,15,3)],'at least 32')])
def test_nothing_to_match(ink, fake, match):
    with pytest.raises(ValueError, match=match): matched_spread([np.full(s,255,np.uint8) for s in ink],[np.full(s,255,np.uint8) for s in fake])

@pytest.mark.parametrize('wrong', [dict(n=0),dict(pages=0)])
def test_the_command_needs_something_to_do(wrong):
    with pytest.raises(ValueError, match='expected 1 or more'): consistency_word(**{'n':1,'pages':1,**wrong})

@pytest.mark.parametrize('models', ['not/there','cyclegan,not/there'])
def test_the_command_names_what_is_missing(models):
    with pytest.raises(ValueError, match='expected a folder'): consistency_word(n=1, pages=1, models=models)

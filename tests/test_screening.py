"Screening: rules at their limits, hashes against a plain cosine transform, twins against a plain search"
from dataclasses import asdict
import json

import numpy as np,pytest
from fixtures import encode,picture
from manga_colorize.dataset.reading import Refused,read_color
from manga_colorize.dataset.screening import Screens,Twins,colour_share,colourfulness,hash_distance,perceptual_hash,screen_color,screen_shape
from manga_colorize.world.artist import World

def test_rules_can_be_stored(): assert Screens(**json.loads(json.dumps(asdict(Screens(twins=None)))))==Screens(twins=None)

@pytest.mark.parametrize('kwargs', [dict(max_aspect=.5),dict(min_colour=-1),dict(min_colour=2),dict(twins=-1),dict(twins=32),dict(max_aspect=float('nan'))])
def test_wrong_rules(kwargs):
    with pytest.raises(ValueError, match='expected'): Screens(**kwargs)

@pytest.mark.parametrize('h,w,kwargs,why', [(128,128,{},None),(127,300,{},'too small'),(128,512,{},None),(128,513,{},'too narrow'),(513,128,{},'too narrow'),
                                             (300,300,dict(min_side=301),'too small'),(64,64,dict(min_side=64),None),(128,900,dict(max_aspect=8.),None)])
def test_shape(h, w, kwargs, why):
    if why is None: screen_shape(h, w, 256, Screens(**kwargs)); return
    with pytest.raises(Refused, match=why): screen_shape(h, w, 256, Screens(**kwargs))

def test_colour_is_counted_by_spread():
    a = np.full((10,20,3),100,np.uint8); a[0,0] = (100,117,100); a[0,1] = (100,116,100)
    assert colour_share(a)==1/200
    assert screen_color(a)['complexity']<40
    a[0,0] = 100
    with pytest.raises(Refused, match='no colour'): screen_color(a)

def test_colourfulness_is_the_papers_formula():
    a = picture(3).astype(float); rg,yb = a[...,0]-a[...,1],(a[...,0]+a[...,1])/2-a[...,2]
    np.testing.assert_allclose(colourfulness(picture(3)), np.hypot(rg.std(),yb.std())+.3*np.hypot(rg.mean(),yb.mean()), rtol=1e-5)

def test_complexity_has_a_limit():
    noise = np.random.default_rng(0).integers(0,256,(64,64,3),np.uint8)
    with pytest.raises(Refused, match='too complex'): screen_color(noise)
    assert screen_color(noise, Screens(max_complexity=100.))['complexity']>40

def test_hash_is_a_plain_cosine_transform():
    n,k = np.arange(32),np.arange(32)[:,None]; c = np.cos(np.pi*(2*n+1)*k/64)
    a = np.full((32,32,3),0,np.uint8); a[...] = picture(5,32,32)[...,:1]
    waves = (c@a[...,0].astype(float)@c.T)[1:9,1:9]; bits = (waves>np.median(waves)).ravel()
    assert perceptual_hash(a)==int(''.join(map(str,bits.astype(int))),2) and bits.sum()==32

def test_versions_are_near_and_others_far():
    world = World(seed=7); pics = [getattr(world,('illustration','scene')[i%2])(i, size=80).color for i in range(40)]
    hashes = [perceptual_hash(p) for p in pics]
    for p,h in zip(pics,hashes):
        for q in (30,60,95): assert hash_distance(h, perceptual_hash(read_color(encode(p,'JPEG',quality=q))))<=Screens().twins
    assert min(hash_distance(a,b) for k,a in enumerate(hashes) for b in hashes[:k])>Screens().twins

def test_twins_are_the_nearest_of_all():
    rng = np.random.default_rng(0); hashes = [int(h) for h in rng.integers(0,2**64,3000,np.uint64)]; t = Twins(radius=22)
    for i,h in enumerate(hashes):
        if i%37==0:
            d = [hash_distance(h,x) for x in hashes[:i]]
            assert t.find(h)==(d.index(min(d)) if d and min(d)<=22 else None)
        assert t.add(h)==i
    assert len(t)==3000

def test_a_million_take_eight_bytes_each():
    t = Twins(); rng = np.random.default_rng(1); hashes = rng.integers(0,2**64,10**6,np.uint64)
    for h in hashes.tolist(): t.add(h)
    assert t.hashes.nbytes<=2*8*10**6 and t.find(int(hashes[123456])^5)==123456

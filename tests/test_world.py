"The World: determinism, sizes, identities, styles, tags"
import subprocess,sys
import cv2,numpy as np,pytest
from manga_colorize.world.artist import World
from manga_colorize.world import identity

def same(a, b): return (a.color==b.color).all() and (a.lines==b.lines).all() and (a.flats==b.flats).all() and a.tags==b.tags

@pytest.mark.parametrize('i', range(12))
def test_forms(i):
    x = World(3).illustration(i, size=64)
    assert x.color.shape==(64,64,3) and x.color.dtype==np.uint8
    assert x.lines.shape==(64,64) and x.lines.dtype==np.uint8 and x.flats.shape==(64,64) and x.flats.dtype==np.int32
    assert x.characters and x.tags and x.style in World.styles
    assert len(np.unique(x.flats))>3 and x.lines.min()<128

def test_order_does_not_matter():
    w,v = World(0),World(0)
    a = [w.illustration(i,size=48) for i in (5,2,9)]
    b = [v.illustration(i,size=48) for i in (9,5,2)]
    assert same(a[0],b[1]) and same(a[1],b[2]) and same(a[2],b[0])

def test_global_state_does_not_matter():
    np.random.seed(0); a = World(0).illustration(4,size=48)
    np.random.seed(7); np.random.random(9); b = World(0).illustration(4,size=48)
    assert same(a,b)

def test_another_process_draws_the_same():
    code = 'import hashlib; from manga_colorize.world.artist import World; x=World(2).illustration(11,size=64); s=World(2).scene(3,size=64); print(hashlib.sha256(x.color.tobytes()+x.lines.tobytes()+x.flats.tobytes()+s.color.tobytes()).hexdigest())'
    out = [subprocess.run([sys.executable,'-c',code],capture_output=True,text=True,check=True).stdout for _ in range(2)]
    assert out[0]==out[1] and len(out[0])>60

@pytest.mark.parametrize('i', range(8))
def test_larger_is_the_same_drawing(i):
    w = World(1)
    small,large = w.illustration(i),w.illustration(i,size=512)
    half = cv2.resize(large.color,(256,256),interpolation=cv2.INTER_AREA).astype(float)
    assert abs(half-small.color).mean()<9 and small.tags==large.tags
    assert (small.lines<128).mean()>(large.lines<128).mean()

def test_seeds_differ():
    assert not (World(0).illustration(3,size=64).color==World(1).illustration(3,size=64).color).all()
    assert World(0).cast(3)!=World(1).cast(3)

def test_cast():
    w = World(0); cast = w.cast(4)
    assert cast==w.cast(6)[:4]
    assert {c.id for i in range(40) for c in w.illustration(i,size=16,cast=cast).characters}=={0,1,2,3}

def test_identity_keeps_its_colours():
    w = World(0); who = w.character(8)
    for i in range(5): assert all(c.palette==who.palette for c in w.illustration(i,size=16,cast=[who]).characters)

@pytest.mark.parametrize('style', World.styles)
def test_style(style):
    x = World(0).illustration(6, size=64, style=style)
    assert x.style==style and x.tags==World(0).illustration(6,size=64).tags

def test_enough_of_everything():
    assert len(identity.hair_styles)>=8 and len(identity.outfits)>=6 and len(identity.styles)>=3
    assert len(identity.headwear)+len(identity.props)>=6
    tags = {t for i in range(150) for t in World(5).illustration(i,size=16).tags}
    assert tags >= {'1girl','1boy','smile','open_mouth','close-up','portrait','upper_body','cowboy_shot','full_body','white_background','sky',
                    'holding_staff','witch_hat'}

@pytest.mark.parametrize('call,match', [
    (lambda w: w.illustration(-1), 'expected an index'), (lambda w: w.illustration('1'), 'expected an index'),
    (lambda w: w.illustration(True), 'expected an index'),
    (lambda w: w.illustration(0,size=8), 'expected a size'), (lambda w: w.illustration(0,size=64.), 'expected a size'),
    (lambda w: w.illustration(0,style='baroque'), 'expected a style'), (lambda w: w.illustration(0,cast=[]), 'at least one character'),
    (lambda w: w.scene(-2), 'expected an index'), (lambda w: w.cast(0), 'expected a number'), (lambda w: w.character(None), 'expected a number'),
    (lambda w: World('a'), 'expected a seed')])
def test_errors(call, match):
    with pytest.raises(ValueError, match=match): call(World(0))

def test_numpy_integers_are_welcome():
    assert same(World(0).illustration(np.int64(3),size=np.int32(32)), World(0).illustration(3,size=32))

def test_scene():
    x = World(0).scene(5, size=64)
    assert x.color.shape==(64,64,3) and x.lines.shape==(64,64) and not x.characters and same(x,World(0).scene(5,size=64))

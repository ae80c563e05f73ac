"Reading: every form of picture, every kind of damage, nothing but pixels or Refused"
import errno,os,tracemalloc,warnings
from collections import Counter
from io import BytesIO
from pathlib import Path

import cv2,numpy as np,pytest
from PIL import Image
from fixtures import bombs,damaged,encode,picture,strangers,whole_files
from manga_colorize.dataset.reading import Refused,cut_square,file_bytes,fit,read_color,refusing,square_window

def psnr(a, b): return 10*np.log10(255**2/max(1e-9, ((a.astype(float)-b)**2).mean()))

def result(file, size=None):
    "What came of it: 'read', or the reason; any other exception passes"
    try: a = read_color(file, size)
    except Refused as e: return str(e)
    assert a.dtype==np.uint8 and a.ndim==3 and a.shape[2]==3 and min(a.shape)>0
    return 'read'

# --- whole files

@pytest.mark.parametrize('name', whole_files())
def test_every_form_is_read(tmp_path, name):
    data = whole_files()[name]; (tmp_path/name).write_bytes(data)
    a = read_color(tmp_path/name)
    assert a.shape==((64,48,3) if name.startswith('turned') else (48,64,3))
    for file in (str(tmp_path/name),data,bytearray(data),BytesIO(data)): np.testing.assert_array_equal(read_color(file), a)
    if not {'grey','deep','alpha','turned','lossless','deflate'}&{name.split('.')[0]}: assert psnr(a, picture(1,48,64))>22

@pytest.mark.parametrize('kind', ('PNG','JPEG','TIFF','WEBP'))
@pytest.mark.parametrize('turn', range(1,9))
def test_exif_turns(turn, kind):
    a = picture(3,40,60)
    stored = {1:a, 2:a[:,::-1], 3:a[::-1,::-1], 4:a[::-1], 5:a.transpose(1,0,2), 6:np.rot90(a), 7:a.transpose(1,0,2)[::-1,::-1], 8:np.rot90(a,-1)}[turn]
    exif = Image.Exif(); exif[274] = turn
    kwargs = dict(quality=100, subsampling=0) if kind=='JPEG' else dict(lossless=True) if kind=='WEBP' else {}
    assert psnr(read_color(encode(np.ascontiguousarray(stored), kind, exif=exif, **kwargs)), a)>40

@pytest.mark.parametrize('exif', (b'Exif\0\0MM\0*\xff\xff\xff\xff', b'Exif\0\0nonsense',
                                  b'Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0\0\0'))
def test_a_damaged_note_is_ignored(exif): assert read_color(encode(picture(1,48,64), 'JPEG', exif=exif)).shape==(48,64,3)

@pytest.mark.parametrize('mode', ('1','L','LA','P','PA','RGB','RGBA','CMYK','YCbCr','LAB','HSV','I','I;16','F','La','RGBa','RGBX'))
@pytest.mark.parametrize('kind', ('PNG','TIFF','GIF','WEBP','JPEG','BMP'))
def test_every_mode_is_read_or_refused(mode, kind):
    try: data = encode(np.zeros((48,64),np.uint16), kind) if mode=='I;16' else encode(picture(1,48,64), kind, mode)
    except Exception: pytest.skip('no such file')
    assert result(data) in ('read','cannot be read')

def test_alpha_lies_on_white():
    a = np.dstack([picture(1), np.zeros((96,96),np.uint8)]); a[30:60,30:60,3] = 255; a[70:80,70:80,3] = 100
    out = read_color(encode(a,'PNG'))
    assert (out[0,0]==255).all() and (out[40,40]==a[40,40,:3]).all()
    assert abs(out[75,75]-(a[75,75,:3]*(100/255)+255*(155/255))).max()<=1
    tall = np.dstack([picture(1,3000,2000), np.full((3000,2000),0,np.uint8)]); assert (read_color(encode(tall,'PNG'))==255).all()

def test_palette_transparency_and_color_key():
    p = Image.fromarray(picture(1)).convert('P', palette=Image.Palette.ADAPTIVE, colors=8); k = p.getpixel((0,0))
    p.save(buf:=BytesIO(), 'PNG', transparency=k); assert (read_color(buf.getvalue())[0,0]==255).all()
    p.save(buf:=BytesIO(), 'GIF', transparency=k); assert (read_color(buf.getvalue())[0,0]==255).all()
    Image.new('RGB',(9,9),(1,2,3)).save(buf:=BytesIO(), 'PNG', transparency=(1,2,3)); assert (read_color(buf.getvalue())==255).all()

def test_sixteen_bits():
    a = (np.arange(48*64).reshape(48,64)*21).astype(np.uint16)
    for kind in ('PNG','TIFF'): np.testing.assert_array_equal(read_color(encode(a, kind))[...,0], a//257)
    rgb = np.dstack([a,a[::-1],a[:,::-1]]); ok,png = cv2.imencode('.png', rgb[...,::-1]); assert ok
    assert abs(read_color(png.tobytes()).astype(int)-rgb//257).max()<=1

# --- less than the whole JPEG

@pytest.mark.parametrize('turned', (False,True))
@pytest.mark.parametrize('shape,size', [((3000,2000),256),((2000,3000),256),((3000,2000),256.5),((999,1400),100),((640,513),64),((300,300),200),
                                        ((8,9),4)], ids=str)
def test_a_reduced_jpeg_is_twice_the_size_and_no_larger_than_needed(shape, size, turned):
    exif = Image.Exif(); exif[274] = 6 if turned else 1
    data = encode(picture(1,*shape), 'JPEG', exif=exif); a = read_color(data, int(size)); h,w = shape[::-1] if turned else shape
    k = max(s for s in (1,2,4,8) if s==1 or min(shape)//s>=2*int(size))
    assert a.shape==(-(-h//k),-(-w//k),3) and min(a.shape[:2])>=min(2*int(size),*shape)

def test_a_reduced_jpeg_looks_the_same():
    from manga_colorize.world.artist import World
    for i in (3,10):
        large = cv2.resize(World(seed=0).illustration(i, size=512).color, (3000,3000), interpolation=cv2.INTER_CUBIC)[:,500:2500]
        data = encode(large, 'JPEG', quality=90); part = read_color(data, 256)
        assert part.shape==(1500,1000,3)
        db = psnr(fit(part, 256), fit(read_color(data), 256)); print(f'illustration {i}: {db:.1f} dB'); assert db>=40

def test_other_forms_are_never_reduced(): assert read_color(encode(picture(1,800,600),'PNG'), 32).shape==(800,600,3)

# --- damage

def test_two_and_a_half_thousand_damaged_files():
    seen = Counter(result(data, (None,16)[i%2]) for i,(_,data) in enumerate(damaged(2520)))
    print(dict(seen))
    assert set(seen)<={'read','cannot be read','not a picture','too large','empty file'}
    assert seen['read']<1500 and seen['cannot be read']>300 and seen['not a picture']>300

def test_damage_says_nothing(recwarn, capsys):
    warnings.simplefilter('always')
    for _,data in damaged(420, seed=1): result(data)
    assert not recwarn.list and capsys.readouterr()==('','')

@pytest.mark.parametrize('name', bombs())
def test_bombs_are_refused_from_their_header(name):
    data = bombs()[name]; tracemalloc.start()
    try: assert result(data)=='too large' and tracemalloc.get_traced_memory()[1]<2**22
    finally: tracemalloc.stop()

def test_just_too_many_pixels():
    assert result(bombs(10001,10000)['bomb.png'])=='too large' and result(bombs(9999,10000)['bomb.png'])=='too large'
    assert result(bombs(900,1000)['bomb.png'])=='cannot be read'
    Image.new('1',(6000,4000)).save(buf:=BytesIO(), 'PNG', optimize=True); assert read_color(buf.getvalue()).shape==(4000,6000,3) # empty, but honest

@pytest.mark.parametrize('name', strangers())
def test_strangers(name): assert result(strangers()[name])=='not a picture'

def test_no_picture_bytes():
    assert result(b'')=='empty file' and result(b'\0')=='not a picture' and result(BytesIO())=='empty file'

@pytest.mark.parametrize('error', (MemoryError(),OverflowError(),SyntaxError('broken PNG file'),RecursionError(),Image.DecompressionBombError(),
                                   KeyError(1),OSError('broken data stream')))
def test_whatever_a_decoder_raises_is_refused(monkeypatch, error):
    def fail(*args, **kwargs): raise error
    monkeypatch.setattr(Image, 'open', fail)
    assert result(b'x')==('too large' if isinstance(error,Image.DecompressionBombError) else 'cannot be read')

# --- files

def test_missing_and_odd_files(tmp_path):
    assert result(tmp_path/'gone.png')=='vanished'
    (tmp_path/'dir.png').mkdir(); assert result(tmp_path/'dir.png')=='not a picture'
    (tmp_path/'empty.png').touch(); assert result(tmp_path/'empty.png')=='empty file' and result(tmp_path/'empty.png'/'x.png')=='vanished'
    assert result(tmp_path/('n'*300+'.png'))=='vanished'

@pytest.mark.skipif(not hasattr(os,'mkfifo'), reason='no pipes here')
def test_pipes_do_not_block(tmp_path): os.mkfifo(tmp_path/'a.png'); assert result(tmp_path/'a.png')=='not a picture'

def test_links(tmp_path):
    try: (tmp_path/'loop.png').symlink_to(tmp_path/'loop.png'); (tmp_path/'broken.png').symlink_to(tmp_path/'gone'); (tmp_path/'good.png').symlink_to(tmp_path/'a.png')
    except OSError: pytest.skip('no links here')
    (tmp_path/'a.png').write_bytes(encode(picture(),'PNG'))
    assert [result(tmp_path/f'{n}.png') for n in ('loop','broken','good')]==['vanished','vanished','read']

@pytest.mark.parametrize('code', (errno.ENOSPC,errno.EIO,errno.ENETDOWN,errno.EMFILE))
def test_faults_of_disk_and_network_are_not_the_pictures(monkeypatch, tmp_path, code):
    class Broken:
        def read(self, n=-1): raise OSError(code, 'not the picture')
    with pytest.raises(OSError, match='not the picture'): read_color(Broken())
    (tmp_path/'a.png').write_bytes(b'x'); monkeypatch.setattr('builtins.open', lambda *a, **k: Broken().read())
    with pytest.raises(OSError, match='not the picture'): read_color(tmp_path/'a.png')

def test_locked():
    with pytest.raises(Refused, match='no permission'):
        with refusing(): raise PermissionError(errno.EACCES, 'locked')

def test_size_limit(monkeypatch, tmp_path):
    monkeypatch.setattr('manga_colorize.dataset.reading.max_bytes', 10); (tmp_path/'a.png').write_bytes(bytes(11))
    for file in (tmp_path/'a.png',bytes(11),BytesIO(bytes(11))):
        with pytest.raises(Refused, match='too large'): file_bytes(file)
    assert file_bytes(bytes(10))==bytes(10)

# --- squares

@pytest.mark.parametrize('h,w', [(64,64),(65,200),(300,64),(33,40),(128,129)])
@pytest.mark.parametrize('crop', ('middle','busy'))
def test_fit(h, w, crop): assert fit(picture(0,h,w), 64, crop).shape==(64,64,3)

def test_fit_keeps_the_middle():
    a = np.zeros((64,192,3),np.uint8); a[:,64:128] = 255
    assert (fit(a,64)==255).all()

def test_a_sketch_is_cut_like_its_picture():
    a = np.zeros((100,260,3),np.uint8); a[20:80:15,150:240] = 255
    for crop in ('middle','busy'):
        w = square_window(a, crop)
        np.testing.assert_array_equal(cut_square(a, w, 50)[...,0], cut_square(np.ascontiguousarray(a[...,0]), w, 50))
    assert square_window(a,'busy')[0]>110

def test_busy_follows_detail_either_way():
    a = np.full((60,400,3),200,np.uint8); a[10:50:8,300:350:2] = 0
    x,y,side = square_window(a,'busy'); assert y==0 and side==60 and 285<=x<=310
    assert square_window(np.ascontiguousarray(a.transpose(1,0,2)),'busy')==(0,x,60)

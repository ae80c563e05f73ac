"Pictures for tests: whole ones in every form, damaged ones, and files that only claim to be large"
import json,struct,zlib
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import cv2,numpy as np
from PIL import Image

def same(a, b):
    "Are two pictures, or two strings of bytes, equal? A bare `assert` of bytes that differ has pytest tell the difference, for minutes"
    raw = lambda x: x if isinstance(x, bytes) else x.tobytes()
    return raw(a)==raw(b)

def picture(i=0, h=96, w=96):
    "Smooth colour with a few edges"
    rng = np.random.default_rng(i)
    a = cv2.resize(rng.integers(0, 256, (5,5,3), np.uint8), (w,h), interpolation=cv2.INTER_CUBIC)
    return cv2.circle(a, (w//2,h//2), min(h,w)//4, rng.integers(0,256,3).tolist(), -1)

def encode(a, kind, mode=None, **kwargs):
    "The bytes of a picture file"
    im = Image.fromarray(a)
    (im.convert(mode) if mode else im).save(buf:=BytesIO(), kind, **kwargs)
    return buf.getvalue()

def whole_files(h=48, w=64):
    "A small picture in every form that people send: name -> bytes"
    a,b = picture(1,h,w),picture(2,h,w); exif = Image.Exif(); exif[274] = 6
    rgba = np.dstack([a,np.full((h,w),90,np.uint8)]); grey = (a[...,0].astype(np.uint16)*257)
    frames = dict(save_all=True, append_images=[Image.fromarray(b)])
    return {'a.jpg':encode(a,'JPEG',quality=90), 'turned.jpg':encode(a,'JPEG',exif=exif), 'progressive.jpg':encode(a,'JPEG',progressive=True),
            'cmyk.jpg':encode(a,'JPEG','CMYK'), 'grey.jpg':encode(a,'JPEG','L'), 'a.png':encode(a,'PNG'), 'alpha.png':encode(rgba,'PNG'),
            'palette.png':encode(a,'PNG','P'),
            'deep.png':encode(grey,'PNG'), 'turned.png':encode(a,'PNG',exif=exif), 'a.gif':encode(a,'GIF',**frames), 'a.webp':encode(a,'WEBP'),
            'lossless.webp':encode(rgba,'WEBP',lossless=True), 'frames.webp':encode(a,'WEBP',**frames), 'a.bmp':encode(a,'BMP'), 'a.tif':encode(a,'TIFF'),
            'lzw.tif':encode(a,'TIFF',compression='tiff_lzw'), 'deflate.tif':encode(rgba,'TIFF',compression='tiff_adobe_deflate'),
            'jpeg.tif':encode(a,'TIFF',compression='jpeg'), 'deep.tif':encode(grey,'TIFF'), 'cmyk.tif':encode(a,'TIFF','CMYK')}

def _cut(d, rng): return d[:rng.integers(1, len(d))]
def _flip(d, rng):
    a = bytearray(d)
    for k in rng.integers(0, 8*len(a), rng.integers(1,30)): a[k//8] ^= 1<<k%8
    return bytes(a)
def _flip_head(d, rng): n = min(len(d),int(rng.integers(16,200))); return _flip(d[:n], rng)+d[n:]
def _blank(d, rng): i,j = sorted(rng.integers(0, len(d), 2)); return d[:i]+bytes(j-i)+d[j:]
def _noise(d, rng): i,j = sorted(rng.integers(0, len(d), 2)); return d[:i]+rng.bytes(j-i)+d[j:]
def _swap(d, rng): i,j = sorted(rng.integers(0, len(d), 2)); return d[j:]+d[i:j]+d[:i]
def _twice(d, rng): i = rng.integers(0, len(d)); return d[:i]+d

def damaged(n, seed=0):
    "Yield `n` damaged files: a name and bytes"
    rng = np.random.default_rng(seed); files = list(whole_files().items()); ways = (_cut,_flip,_flip_head,_blank,_noise,_swap,_twice)
    for i in range(n):
        name,d = files[i%len(files)]
        yield f'{i:05d} {name}',ways[rng.integers(len(ways))](d, rng)

def _chunk(kind, data): return struct.pack('>I',len(data))+kind+data+struct.pack('>I',zlib.crc32(kind+data))
def bombs(w=60000, h=60000):
    "Files of a few bytes whose headers claim `w` by `h` pixels: name -> bytes"
    png = b'\x89PNG\r\n\x1a\n'+_chunk(b'IHDR',struct.pack('>IIBBBBB',w,h,8,2,0,0,0))+_chunk(b'IDAT',zlib.compress(bytes(1000)))+_chunk(b'IEND',b'')
    gif = b'GIF89a'+struct.pack('<HHBBB',w,h,0x80,0,0)+bytes(6)+b','+struct.pack('<HHHHB',0,0,w,h,0)+b'\x02\x02\x44\x01\x00;'
    jpg = encode(picture(1,48,64),'JPEG'); k = jpg.index(b'\xff\xc0')+5; jpg = jpg[:k]+struct.pack('>HH',h,w)+jpg[k+4:]
    bmp = b'BM'+struct.pack('<IHHIIiiHHIIiiII',54,0,0,54,40,w,h,1,24,0,0,0,0,0,0)
    tags = [(256,4,w),(257,4,h),(258,3,8),(259,3,1),(262,3,1),(273,4,8),(277,3,1),(278,4,h),(279,4,100)]
    tif = b'II*\0'+struct.pack('<I',8)+struct.pack('<H',len(tags))+b''.join(struct.pack('<HHII',t,k,1,v) for t,k,v in tags)+bytes(4)
    webp = encode(picture(1,48,64),'WEBP',save_all=True,append_images=[Image.fromarray(picture(2,48,64))]); k = webp.index(b'VP8X')+12
    webp = webp[:k]+struct.pack('<I',16383)[:3]*2+webp[k+6:]
    return {'bomb.png':png, 'bomb.gif':gif, 'bomb.jpg':jpg, 'bomb.bmp':bmp, 'bomb.tif':tif, 'bomb.webp':webp}

def strangers():
    "What lies about under a picture's name: name -> bytes"
    import pickle,zipfile
    with zipfile.ZipFile(z:=BytesIO(), 'w') as f: f.writestr('a.png', encode(picture(),'PNG'))
    return {'page.jpg':b'<!doctype html><title>503</title>', 'text.png':'Ein Text, kein Bild'.encode(), 'archive.webp':z.getvalue(),
            'model.png':pickle.dumps({'a':1}), 'vector.png':b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
            'print.jpg':b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n', 'video.gif':bytes(4)+b'ftypisom'+bytes(40), 'noughts.bmp':bytes(999)}

def digest(data):
    "Bytes, or the file of a path, in one word: pytest would spend minutes on the difference of two long ones"
    return sha256(data if isinstance(data, bytes) else data.read_bytes()).hexdigest()

def contents(path):
    "All files under a folder: name -> `digest`"
    return {p.relative_to(path).as_posix():digest(p) for p in Path(path).rglob('*') if p.is_file()}

def refusals(path):
    "What a data set refused: source -> why"
    return {d['source']:d['why'] for d in map(json.loads, (Path(path)/'refused.jsonl').read_text(encoding='utf-8').splitlines())}

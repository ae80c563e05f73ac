"Everything a notebook needs: `from manga_colorize.all import *`"
from manga_colorize.core import *
from manga_colorize.data.ink import Canvas,Illustration
from manga_colorize.data.identity import Character
from manga_colorize.data.world import World
from manga_colorize.data.sketch import *
from manga_colorize.data.dataset import *
from manga_colorize.data.batches import *
from manga_colorize.pix2pix.networks import *
from manga_colorize.pix2pix.adversarial import *
from manga_colorize.pix2pix.longruns import *
from manga_colorize.pix2pix.training import *
from manga_colorize.evaluate.metrics import *
from manga_colorize.studio.colorizer import *

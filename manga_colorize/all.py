"Everything a notebook needs: `from manga_colorize.all import *`"
from manga_colorize.core import *

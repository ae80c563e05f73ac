"Print the core requirements of settings.ini pinned to the oldest releases they allow"
import re
from configparser import ConfigParser
from pathlib import Path

config = ConfigParser(delimiters=['='])
config.read(Path(__file__).resolve().parent.parent/'settings.ini', encoding='utf-8')
for requirement in config['DEFAULT']['requirements'].split(): print(re.sub('>=([^,]*).*', r'==\1.*', requirement))

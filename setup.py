"Packaging: everything that varies is read from `settings.ini`"
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup, find_packages

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']

def words(key): return cfg.get(key, '').split()

extras = {k.removesuffix('_requirements'): words(k) for k in cfg if k.endswith('_requirements')}
oldest = int(cfg['min_python'].split('.')[1])
lessons = 'manga_colorize.lessons'

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'],
    long_description=(here/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    author=cfg['author'], author_email=cfg['author_email'], url=cfg['git_url'], keywords=cfg['keywords'],
    license='Apache-2.0', license_files=['LICENSE'], python_requires=f">={cfg['min_python']}",
    classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Developers', 'Intended Audience :: Education',
                 *[f'Programming Language :: Python :: 3.{minor}' for minor in range(oldest, 15)]],
    install_requires=words('requirements'), extras_require=extras,
    packages=[*find_packages(include=['manga_colorize', 'manga_colorize.*']), lessons],
    package_dir={lessons: 'nbs'},
    package_data={'manga_colorize': ['static/*', 'weights/*', 'weights/*/*'], lessons: ['*.ipynb', '*/*.ipynb', 'images/*', 'images/*/*']},
    include_package_data=False, zip_safe=False,
    entry_points={'console_scripts': words('console_scripts'), 'nbdev': ['manga_colorize=manga_colorize._modidx:d']},
)

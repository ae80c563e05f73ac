"Splits: what must hold for any data set, checked on many random ones"
import numpy as np,pytest
from manga_colorize.dataset.splits import assign_splits,mixed,names,read_cast,spread,strangers,wrong_style

def facts(seed, n=300, people=30, together=.2, styles=('a','b','c'), nobody=.2):
    rng = np.random.default_rng(seed); out = []
    for i in range(n):
        k = 0 if rng.random()<nobody else 2 if rng.random()<together else 1
        out.append(dict(characters=[f'c{j}' for j in rng.choice(people, k, replace=False)], complexity=float(rng.gamma(9,2)), style=str(rng.choice(styles))))
    return out

def people(rows, where, *splits): return {c for f,s in zip(rows,where) if s in splits for c in f['characters']}

@pytest.mark.parametrize('seed', range(12))
def test_nobody_crosses(seed):
    rng = np.random.default_rng(seed)
    rows = facts(seed, n=int(rng.integers(2,400)), people=int(rng.integers(2,80)), together=rng.random()*.5)
    where = assign_splits(rows, seed=seed, valid_pct=rng.random()*.5, test_pct=rng.random()*.6, kept_styles=['b'] if seed%2 else [])
    assert len(where)==len(rows) and set(where)<={*names,mixed,wrong_style}
    assert not people(rows,where,'train','valid','color') & people(rows,where,'transfer','interpolation')
    assert people(rows,where,'color') <= people(rows,where,'train')
    train = [f for f,s in zip(rows,where) if s=='train']
    if not train: return
    high,styles = np.quantile(np.float32([f['complexity'] for f in train]), .99),{f['style'] for f in train}
    for f,s in zip(rows,where):
        if s=='transfer': assert f['style'] in styles and np.float32(f['complexity'])<=high
        if s=='interpolation': assert f['style'] not in styles or np.float32(f['complexity'])>high
        if seed%2 and s in ('train','valid','color'): assert f['style']!='b'
        if not f['characters']: assert s in ('train','valid',wrong_style)

def test_shares():
    rows = facts(0, n=3000, people=200, together=0., nobody=0.)
    where = assign_splits(rows, valid_pct=.1, test_pct=.3); n = {s:where.count(s)/3000 for s in names}
    assert .09<n['color']<.12 and .08<n['transfer']+n['interpolation']<.3 and abs(n['valid']/(n['train']+n['valid']+n['color'])-.1)<.01
    assert n['interpolation']>0 and mixed not in where

def test_seed_and_order():
    rows = facts(1)
    assert assign_splits(rows)==assign_splits(iter(rows))!=assign_splits(rows, seed=1)

def test_strangers_leave_somebody():
    cast = read_cast(facts(2, people=9)); assert len(strangers(cast, 10**6, 0))<=4
    assert set(assign_splits([dict(characters=['only'])]*50))<={'train','valid','color'}

@pytest.mark.parametrize('share', [0,.01,.1,1/3,.5,.99])
def test_spread(share):
    for n in (1,10,100,1000): assert abs(sum(spread(k,share) for k in range(n))-share*n)<=1

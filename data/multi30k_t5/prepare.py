"""Multi30k as a task of T5: before every English sentence stands "translate English to French: ".

    python data/multi30k_t5/prepare.py

This is data/multi30k/prepare.py with its option prefix, under another name.
"""
import runpy
import sys

if __name__ == '__main__':
    sys.argv[1:] = ['--prefix=translate English to French: ', '--out=multi30k_t5', *sys.argv[1:]]
    multi30k = __file__.rsplit('/', 2)[0] + '/multi30k/prepare.py'
    runpy.run_path(multi30k, run_name='__main__')

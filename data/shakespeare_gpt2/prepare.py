"""Tiny Shakespeare in the byte pairs of GPT-2, 300,000 tokens, to fine-tune it.

    python data/shakespeare_gpt2/prepare.py

This is data/shakespeare/prepare.py with its option tokenizer, under another name.
"""
import runpy
import sys

if __name__ == '__main__':
    sys.argv[1:] = ['--tokenizer=gpt2', '--out=shakespeare_gpt2', *sys.argv[1:]]
    shakespeare = __file__.rsplit('/', 2)[0] + '/shakespeare/prepare.py'
    runpy.run_path(shakespeare, run_name='__main__')

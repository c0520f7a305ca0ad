"""stub"""
from .cache import Guest
GUEST=Guest('container','.tar.zst',('container.py',),list,lambda:None,lambda p:p)

"""stub"""
from .cache import Guest
GUEST=Guest('debian','.tar.zst',('debian.py',),list,lambda:None,lambda p:p)

"""The engine on a Redis or Valkey server."""

from empathy_kv.kv.redis.engine import RedisKV

__all__ = ["RedisKV"]

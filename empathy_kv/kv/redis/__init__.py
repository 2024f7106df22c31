"""Redis and Valkey as engines."""

from empathy_kv.kv.redis.engine import AsyncRedisKV, RedisKV

__all__ = ["AsyncRedisKV", "RedisKV"]

"""The command `dim-jax layerwise`, for who has not installed it."""

from dim_jax.commands.layerwise import main

if __name__ == '__main__':
  main()
